"""What no run needs goes; what a run needs, or may be about to need, stays."""

import os
import time
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline_lib.errors import StoreError
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.store.gc import DAY_S, garbage, references, remove
from pipeline_lib.tables.table import Table

TABLE = Table("table", 1, pa.schema([pa.field("image", pa.string(), nullable=False)]))
OLD_S = 20 * DAY_S


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"))
    request.getfixturevalue("s3_server")
    bucket = f"gc-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").call_s3("create_bucket", Bucket=bucket)
    return ArtifactStore(f"s3://{bucket}/prefix")


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def publish(store: ArtifactStore, address: str, *scratch: str, **arguments: object) -> Manifest:
    with store.attempt() as attempt:
        attempt.write_table(TABLE, pa.table({"image": ["a.jpg"]}))
        attempt.scratch |= set(scratch)
        return store.publish(address, attempt, arguments)


def stage(store: ArtifactStore, name: str, *scratch: str, **arguments: object) -> dict[str, str]:
    """An artifact and the reference to it, as manifests hold it."""
    address = f"steps/{name}/{name}-key"
    publish(store, address, f"{address}/shards", f"{address}/checkpoints", *scratch, **arguments)
    return {"stage": name, "key": f"{name}-key"}


def a_run(store: ArtifactStore) -> None:
    """pairs -> adapter -> predictions; the pointer of the run names the last one alone."""
    pairs = stage(store, "generate", seed=1)
    adapter = stage(store, "train_score", score_pairs=pairs)
    stage(store, "evaluate", "scratch/answers/asked/test/shards", models=[[0, "score", adapter]])
    publish(store, "scratch/answers/asked/test/shards/0-1")
    store.write_pointer("runs/kept/iteration-01/predictions.json", {"stage": "evaluate", "key": "evaluate-key"})
    store.create_pointer("judge_cache/judge/question.json", {"score": 1})


def kinds(store: ArtifactStore, days: float = 0, forget: tuple[str, ...] = ()) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for removal in garbage(store, days, forget):
        found.setdefault(removal.kind, []).append(removal.path)
    return found


def test_nothing_that_a_run_was_made_from_goes(store: ArtifactStore) -> None:
    a_run(store)
    before = store.files.sizes(store.root)
    remove(store, garbage(store, 0))
    assert store.files.sizes(store.root) == before


def test_all_that_belongs_to_no_run_goes_and_nothing_else(store: ArtifactStore) -> None:
    a_run(store)
    before = store.files.sizes(store.root)
    stage(store, "swap", score_pairs={"stage": "generate", "key": "generate-key"})
    store.files.write(store.path("prefect/swap-swap-key"), b"{}")
    publish(store, "scratch/answers/another/test/shards/0-1")
    publish(store, "scratch/anything/another/shards/0-1")
    publish(store, "answers/of-before/test/shards/0-1")
    publish(store, "other_explanations/of-before/shards/0-1")
    publish(store, "steps/generate/crashed/shards/0-1")
    publish(store, "steps/generate/generate-key/shards/0-1")
    publish(store, "steps/train_score/train_score-key/checkpoints/step-1")
    store.files.write(store.path("steps/generate/generate-key/0123456789ab/table.parquet"), b"half")
    store.files.write(store.path("runs/kept/images.json.0a1b2c3d"), b"half")
    store.files.write(store.path("steps/generate/generate-key/manifest.json.0a1b2c3d"), b"half")
    assert kinds(store) == {
        "artifacts of no run": ["steps/swap/swap-key"],
        "Prefect's records of an earlier version": ["prefect"],
        "shards of no run": ["scratch/answers/another", "scratch/anything/another"],
        "shards of an earlier version": ["answers", "other_explanations"],
        "unfinished stages": ["steps/generate/crashed"],
        "shards of finished stages": ["steps/generate/generate-key/shards"],
        "checkpoints of finished stages": ["steps/train_score/train_score-key/checkpoints"],
        "attempts that were not published": ["steps/generate/generate-key/0123456789ab"],
        "temporary files": [
            "runs/kept/images.json.0a1b2c3d",
            "steps/generate/generate-key/manifest.json.0a1b2c3d",
        ],
    }
    remove(store, garbage(store, 0))
    assert store.files.sizes(store.root) == before
    assert kinds(store) == {}


def test_what_was_written_lately_stays_whoever_it_belongs_to(store: ArtifactStore) -> None:
    a_run(store)
    pairs = stage(store, "swap")
    stage(store, "train_consistency", consistency_pairs=pairs)
    publish(store, "steps/generate/under-way/shards/0-1")
    publish(store, "scratch/answers/under-way/test/shards/0-1")
    store.files.write(store.path("steps/generate/under-way/0123456789ab/table.parquet"), b"half")
    publish(store, "steps/train_score/train_score-key/checkpoints/step-1")
    assert kinds(store, days=14) == {}


def test_an_old_input_of_a_young_artifact_stays(folder: ArtifactStore) -> None:
    a_run(folder)
    pairs = stage(folder, "swap")
    age(folder)
    stage(folder, "train_consistency", consistency_pairs=pairs)
    assert kinds(folder, days=14) == {}
    age(folder)
    assert len(kinds(folder, days=14)["artifacts of no run"]) == 2


def test_checkpoints_of_a_damaged_artifact_stay(folder: ArtifactStore) -> None:
    a_run(folder)
    publish(folder, "steps/train_score/train_score-key/checkpoints/step-1")
    next(Path(folder.path("steps/train_score/train_score-key")).glob("*/table.parquet")).write_bytes(b"cut")
    assert "checkpoints of finished stages" not in kinds(folder)


def test_a_forgotten_run_goes_but_not_what_another_one_needs(store: ArtifactStore) -> None:
    a_run(store)
    before = store.files.sizes(store.root)
    stage(store, "swap", score_pairs={"stage": "generate", "key": "generate-key"})
    store.write_pointer("runs/other/pairs.json", {"stage": "swap", "key": "swap-key"})
    assert kinds(store) == {}
    assert kinds(store, forget=("other",)) == {
        "runs to forget": ["runs/other"],
        "artifacts of no run": ["steps/swap/swap-key"],
    }
    remove(store, garbage(store, 0, ["other"]))
    assert store.files.sizes(store.root) == before


@pytest.mark.parametrize(
    "path", ["runs/kept/iteration-01/predictions.json", "steps/train_score/train_score-key/manifest.json"]
)
def test_what_cannot_be_read_stops_it(store: ArtifactStore, path: str) -> None:
    a_run(store)
    stage(store, "swap")
    store.files.write(store.path(path), b"{")
    with pytest.raises(StoreError, match=r"cannot be read.*run"):
        garbage(store, 0)


@pytest.mark.parametrize("role", ["adapter", "run"])
def test_a_pointer_to_nothing_stops_it_until_its_run_is_forgotten(store: ArtifactStore, role: str) -> None:
    a_run(store)
    swapped = stage(store, "swap")
    changed = {"stage": "swap", "key": "swap-kez"}  # what it named would go
    store.write_pointer(f"runs/other/{role}.json", {"images": changed} if role == "run" else changed)
    before = store.files.sizes(store.root)
    with pytest.raises(StoreError, match="swap-kez"):
        garbage(store, 0)
    assert store.files.sizes(store.root) == before
    assert set(kinds(store, forget=("other",))) == {"runs to forget", "artifacts of no run"}
    store.write_pointer(f"runs/other/{role}.json", swapped)
    assert kinds(store) == {}


def test_only_scratch_that_its_manifest_lists_is_scratch_of_a_finished_stage(folder: ArtifactStore) -> None:
    a_run(folder)
    publish(folder, "steps/train_score/train_score-key/shards/0-1")
    publish(folder, "steps/train_score/train_score-key/other/0-1")
    age(folder, 2 * DAY_S)
    assert kinds(folder, days=14) == {"shards of finished stages": ["steps/train_score/train_score-key/shards"]}


def test_a_folder_that_was_written_to_since_it_was_looked_at_stays(folder: ArtifactStore) -> None:
    a_run(folder)
    publish(folder, "steps/generate/slow/shards/0-1")
    found = garbage(folder, 0)
    publish(folder, "steps/generate/slow/shards/1-2")
    remove(folder, found)
    assert isinstance(folder.lookup("steps/generate/slow/shards/0-1"), Manifest)


def test_references_are_found_wherever_they_are() -> None:
    ref = ArtifactRef(stage="evaluate", key="k").model_dump()
    assert list(references({"a": [[1, "x", ref]], "b": {"model": {"adapter": {"stage": "s", "key": "k"}}}})) == [
        "steps/evaluate/k",
        "steps/s/k",
    ]


def age(store: ArtifactStore, by_s: float = OLD_S) -> None:
    """Make all files old."""
    for path in Path(store.root).rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - by_s,) * 2)
