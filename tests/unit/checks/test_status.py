"""Where runs stand, from a folder and from a bucket alike."""

import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline_lib.checks.status import store_status
from pipeline_lib.errors import StoreError
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder, read_run
from pipeline_lib.store.shards import Writer
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.tables.table import Table

SHARD = Table("shard", 1, pa.schema([pa.field("image", pa.string())]))
RECIPE = {"seed": 1}
IMAGES = ArtifactRef(stage="discretize", key="k")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"))
    request.getfixturevalue("s3_server")
    bucket = f"status-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").call_s3("create_bucket", Bucket=bucket)
    return ArtifactStore(f"s3://{bucket}/prefix")


def measured(store: ArtifactStore, run: str, at: str, stage: str, metric: str, value: float) -> None:
    """A published stage with one figure, and the run's pointer to it."""
    key = f"{run}-{at}-{metric}".replace("/", "-")
    row = {"split": "test", "metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "rows": 9}
    with store.attempt() as attempt:
        attempt.write_table(METRICS, pa.Table.from_pylist([row]))
        store.publish(f"steps/{stage}/{key}", attempt, {})
    folder = begun(store, run)
    folder.keep(at, ArtifactRef(stage=stage, key=key))


def begun(store: ArtifactStore, run: str) -> RunFolder:
    """The folder of a run of `RECIPE`."""
    folder = RunFolder(store, run, RECIPE, IMAGES)
    if read_run(store, run) is None:
        folder.begin()
    return folder


def part(store: ArtifactStore, address: str, *, writer: Writer | None = None) -> None:
    with store.attempt() as attempt:
        attempt.write_table(SHARD, pa.table({"image": ["a"]}))
        store.publish(address, attempt, {"writer": writer._asdict()} if writer else {})


def test_the_newest_model_of_each_run_and_what_is_under_way(store: ArtifactStore) -> None:
    measured(store, "one", "iteration-01/score/predictions", "evaluate", "srcc_stated", 0.5)
    measured(store, "one", "iteration-02/merged/predictions", "evaluate", "srcc_stated", 0.7)
    measured(store, "one", "iteration-02/consistency/predictions", "evaluate", "srcc_stated", 0.6)
    measured(store, "one", "iteration-02/merged/verdicts", "judge", "cons", 2.5)
    measured(store, "two", "iteration-00/zero-shot/predictions", "evaluate", "srcc_stated", 0.1)
    part(store, "steps/generate/0123456789/shards/00000000-00000016")
    part(store, "steps/generate/0123456789/shards/00000016-00000020")
    part(store, "steps/train_score/abcdef0123/checkpoints/step-00000040")
    writer = Writer("steps/evaluate/fedcba9876", "ite-3 score evaluate")
    part(store, "scratch/answers/0a1b2c/val-test/shards/00000000-00000016", writer=writer)
    said = store_status(store)
    assert "one: not finished, iteration 2\n  ite-2 merged: SRCC stated 0.700 [0.60 0.80], Cons 2.500" in said
    assert "two: not finished, iteration 0\n  zero-shot: SRCC stated 0.100" in said
    assert "generate 01234567: 20 images in 2 shard(s), written" in said
    assert "train_score abcdef01: a checkpoint of step 40, written" in said
    assert "ite-3 score evaluate fedcba98: 16 images in 1 shard(s)" in said
    assert "two" not in store_status(store, ["one"])


def test_a_report_that_is_older_than_what_followed_does_not_make_a_run_finished(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    measured(store, "one", "iteration-01/score/predictions", "evaluate", "srcc_stated", 0.5)
    begun(store, "one").keep("report", ArtifactRef(stage="report", key="r"))
    assert "one: finished, iteration 1" in store_status(store)
    measured(store, "one", "iteration-02/score/predictions", "evaluate", "srcc_stated", 0.6)
    assert "one: not finished, iteration 2" in store_status(store)


def test_a_run_that_is_not_there(store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="run one"):
        store_status(store, ["one"])


def test_pointers_of_another_recipe_are_not_believed(store: ArtifactStore) -> None:
    measured(store, "one", "iteration-01/score/predictions", "evaluate", "srcc_stated", 0.5)
    measured(store, "one", "iteration-04/merged/predictions", "evaluate", "srcc_stated", 0.9)
    begun(store, "one").keep("report", ArtifactRef(stage="report", key="r"))
    other = RunFolder(store, "one", {"seed": 2}, IMAGES)
    other.begin()
    said = store_status(store)
    assert "one: not finished, nothing evaluated yet" in said and "ite-4" not in said and "in 0 artifacts" in said
    key = "one-iteration-01-score-predictions-srcc_stated"
    other.keep("iteration-01/score/predictions", ArtifactRef(stage="evaluate", key=key))
    said = store_status(store)
    assert "ite-1 score: SRCC stated 0.500" in said and "ite-4" not in said


def test_a_run_of_an_earlier_version_says_so_in_its_line(store: ArtifactStore) -> None:
    measured(store, "new", "iteration-01/score/predictions", "evaluate", "srcc_stated", 0.5)
    ref = {"stage": "evaluate", "key": "new-iteration-01-score-predictions-srcc_stated"}
    store.write_pointer("runs/old/iteration-01/score/predictions.json", ref)
    lines = {line.partition(":")[0]: line for line in store_status(store).splitlines()}
    new, old = lines["new"], lines["old"]
    assert "run.json" in old and "iteration" not in old
    assert "run.json" not in new and "iteration 1" in new


def test_shards_that_a_finished_stage_used_are_not_under_way(store: ArtifactStore) -> None:
    """Whoever wrote them may be gone: another stage, with other figures of the same answers, has used them since."""
    folder, shard = "scratch/answers/asked/test/shards", "00000000-00000016"
    part(store, f"{folder}/{shard}", writer=Writer("steps/evaluate/first", "zero-shot evaluate"))
    measured(store, "one", "iteration-00/zero-shot/predictions", "evaluate", "srcc_stated", 0.5)
    assert "zero-shot evaluate first: 16 images" in store_status(store)
    with store.attempt() as attempt:
        attempt.scratch.add(folder)
        store.publish("steps/evaluate/second", attempt, {})
    assert "Under way" in store_status(store)  # no run says that it is needed
    begun(store, "one").keep("iteration-00/answers", ArtifactRef(stage="evaluate", key="second"))
    assert "Under way" not in store_status(store)
    store.files.write(store.path("runs/one/torn.json"), b"{")  # for gc a reason to stop, not for a look
    assert "Under way" not in store_status(store)
    store.files.remove(store.path("runs/one/iteration-00/answers.json"))
    part(store, "steps/evaluate/first")
    assert "Under way" not in store_status(store)
