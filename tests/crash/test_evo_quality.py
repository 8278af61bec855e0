"""EvoQuality at the size of a test: killed at each kind of moment, on labels that are poison, and with its controls."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml

from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.demo.method_data import write_unlabelled
from pipeline_lib.store import ArtifactStore, Manifest
from tests.crash.conftest import digests

ROOT = Path(__file__).parents[2]
MOMENTS = ["after /shards/", "step 3", "before make_variants/", "before report/"]
pytestmark = pytest.mark.timeout(1800)


def write_recipe(folder: Path, data: Path, store: Path, table: str = "images.csv") -> Path:
    """Two rounds over 16 images; the labelled images measure."""
    fields: dict[str, Any] = yaml.safe_load((ROOT / "recipes/evo_quality/demo.yaml").read_text())
    fields["name"] = "small"
    fields["data"]["table"] = str(data / "unlabelled" / table)
    fields["pairs"] = {"count": 8, "held_out": 3, "variants": {"per_image": 3, "fraction": 0.5}}
    fields["votes"]["answers"] = 3
    fields["training"] |= {"batch_size": 2, "micro_batch_size": 2}
    fields["training"]["grpo"]["answers"] = 3
    labelled = {"name": "test", "table": str(data / "scores/scores.csv"), "split_column": "split", "split": "test"}
    fields["evaluation"] = {"answers": 2, "labelled": [labelled], "bootstrap_samples": 100}
    fields["runtime"] |= {"store": str(store), "shard_rows": 6, "checkpoint_every": 2, "generation_batch_size": 4}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(fields))
    return folder / "small.yaml"


class Finished(NamedTuple):
    """The data and the store of a run that nothing disturbed, and what it said."""

    data: Path
    store: Path
    log: str


@pytest.fixture(scope="module")
def finished(run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("evo_quality")
    write_unlabelled(folder / "unlabelled", 3, images=20, variants=0)
    write_dataset(folder / "scores", 3, train=2, val=2, test=8)
    status, _, log = run(write_recipe(folder, folder, folder / "store"))
    assert status == 0, log[-3000:]
    return Finished(folder, folder / "store", log)


def tables(store: Path, stage: str, name: str) -> list[Any]:
    """A table of every artifact of a stage, in the order of their content."""
    artifacts = ArtifactStore(str(store))
    found = [artifacts.read_table(f"steps/{stage}/{key}", name) for key in artifacts.children(f"steps/{stage}")]
    return sorted(found, key=lambda table: str(table.slice(0, 1).to_pylist()))


def without_clock(store: Path) -> dict[str, Any]:
    """The digest of every artifact; of a training those of its weights and of its log without the speed."""
    artifacts = ArtifactStore(str(store))
    found: dict[str, Any] = dict(digests(store))
    for address in [address for address in found if "/train_ranking/" in address]:
        manifest = artifacts.lookup(address)
        assert isinstance(manifest, Manifest)
        log = artifacts.read_table(address, "training_log").drop_columns(["tokens_per_s", "images_per_s"])
        found[address] = manifest.files["adapter_model.safetensors"].sha256, log.to_pylist()
    return found


def test_a_run_votes_ranks_and_measures_each_round(finished: Finished) -> None:
    pairs = {row["pair"]: row for table in tables(finished.store, "draw_pairs", "pairs") for row in table.to_pylist()}
    kinds = [pairs[f"round-02/{at:06d}"]["kind"] for at in range(8)]
    assert sorted(kinds) == ["images"] * 4 + ["variants"] * 4
    assert {row["kind"] for name, row in pairs.items() if not name.startswith("round-02")} == {"images"}
    trained = {image["image"] for name, row in pairs.items() if "round" in name for image in row["images"]}
    held_out = {image["image"] for name, row in pairs.items() if "held-out" in name for image in row["images"]}
    assert len(held_out) > 2 and not held_out & trained
    assert [table["step"].to_pylist() for table in tables(finished.store, "train_ranking", "training_log")] == [
        [1, 2, 3, 4]
    ] * 2
    for table in tables(finished.store, "evaluate_ratings", "ratings"):
        assert len(table) == 8 and table["score"].null_count == 0
        assert [len(answers) for answers in table["answers"].to_pylist()] == [2] * 8
    page = (finished.store / "runs/small/report/report.html").read_text()
    assert page.count("<section>") == 6 and page.count("<svg") == 6 and page.count("data:image/jpeg") == 6
    of_run = finished.store / "runs/small"
    pointers = {path.relative_to(of_run).as_posix() for path in of_run.rglob("*.json")}
    assert {f"iteration-{name}/predictions.json" for name in ("00/zero-shot", "01/ranking", "02/ranking")} <= pointers
    last, model = (
        json.loads((of_run / f"{name}.json").read_text()) for name in ("iteration-02/ranking/adapter", "model")
    )
    assert last["key"] == model["key"]


def test_killed_again_and_again_it_ends_with_the_same_digests(
    finished: Finished, run: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, finished.data, tmp_path / "store")
    logs = []
    for moment in MOMENTS:
        status, _, log = run(recipe, moment)
        assert status == -signal.SIGKILL, (moment, log[-3000:])
        logs.append(log)
    status, _, log = run(recipe)
    assert status == 0, log[-3000:]
    assert without_clock(tmp_path / "store") == without_clock(finished.store)
    assert any("going on from step 2" in log for log in logs)


def test_no_label_is_read_by_what_draws_votes_or_trains(
    finished: Finished, run: Callable[..., Any], tmp_path: Path
) -> None:
    rows = pd.read_csv(finished.data / "unlabelled/images.csv", dtype=str)
    rows["score"] = ["poison", "-inf", "1e999", ""] * (len(rows) // 4)
    rows.to_csv(finished.data / "unlabelled/poison.csv", index=False)
    recipe = write_recipe(tmp_path, finished.data, tmp_path / "store", table="poison.csv")
    status, _, log = run(recipe)
    assert status == 0, log[-3000:]
    for stage, name in (("draw_pairs", "pairs"), ("vote", "votes"), ("train_ranking", "training_log")):
        speed = {"tokens_per_s", "images_per_s"}
        both = [
            [table.drop_columns([*(speed & set(table.column_names))]) for table in tables(store, stage, name)]
            for store in (finished.store, tmp_path / "store")
        ]
        assert both[0] == both[1] and both[0]
