"""EvoQuality at the size of a test: killed at each kind of moment, on labels that are poison, and with its controls."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.demo.method_data import write_unlabelled
from pipeline_lib.store import ArtifactStore, Manifest
from tests.crash.conftest import digests, go_on_after_kills
from whyscore.cli import app

ROOT = Path(__file__).parents[2]
MOMENTS = ["before make_variants/", "after /shards/", "step 3", "before report/"]
pytestmark = pytest.mark.timeout(1800)


def write_recipe(folder: Path, data: Path, store: Path, table: str = "images.csv", rounds: int = 2) -> Path:
    """Two rounds over 16 images; the labelled images measure."""
    fields: dict[str, Any] = yaml.safe_load((ROOT / "recipes/evo_quality/demo.yaml").read_text())
    fields |= {"name": "small", "rounds": rounds}
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
    said = CliRunner().invoke(app, ["status", "--store", str(finished.store)]).output
    assert "small: finished, iteration 2" in said and "ite-2 ranking: SRCC stated" in said


def test_killed_again_and_again_it_ends_with_the_same_digests(
    finished: Finished, run: Callable[..., Any], half_done: Callable[[Path, Path], set[str]], tmp_path: Path
) -> None:
    half_done(finished.store, tmp_path / "store")
    recipe = write_recipe(tmp_path, finished.data, tmp_path / "store")
    logs = go_on_after_kills(run, recipe, MOMENTS)
    assert digests(tmp_path / "store") == digests(finished.store)
    assert any("going on from step 2" in log for log in logs)


def test_no_label_is_read_by_what_draws_votes_or_trains(
    finished: Finished, run: Callable[..., Any], tmp_path: Path
) -> None:
    rows = pd.read_csv(finished.data / "unlabelled/images.csv", dtype=str)
    rows["score"] = ["poison", "-inf", "1e999", ""] * (len(rows) // 4)
    rows.to_csv(finished.data / "unlabelled/poison.csv", index=False)
    recipe = write_recipe(tmp_path, finished.data, tmp_path / "store", table="poison.csv", rounds=1)
    status, _, log = run(recipe)
    assert status == 0, log[-3000:]
    for stage, name in (("draw_pairs", "pairs"), ("vote", "votes"), ("train_ranking", "training_log")):
        both = [tables(store, stage, name) for store in (finished.store, tmp_path / "store")]
        assert both[1] and all(table in both[0] for table in both[1])


def test_its_controls_learn_other_labels_of_the_same_pairs(
    finished: Finished, prefect_server: str, tmp_path: Path
) -> None:
    shutil.copytree(finished.store, tmp_path / "store")
    recipe = write_recipe(tmp_path, finished.data, tmp_path / "store")
    said = CliRunner().invoke(app, ["control", str(recipe)])
    assert said.exit_code == 0, said.output
    store = ArtifactStore(str(tmp_path / "store"))
    manifests = [store.lookup(f"steps/change_votes/{key}") for key in store.children("steps/change_votes")]
    changes = [manifest.arguments["change"] for manifest in manifests if isinstance(manifest, Manifest)]
    assert sorted(changes) == ["flipped", "shuffled", "shuffled"]
    of_run, of_control = (tmp_path / "store/runs" / name for name in ("small", "small-control"))
    (table,) = tables(tmp_path / "store", "compare_controls", "controls")
    rows = {(row["labels"], row["round"]) for row in table.to_pylist()}
    assert rows == {("own", 0), ("own", 1), ("own", 2), ("shuffled", 1), ("shuffled", 2), ("flipped", 1)}
    # The control's final model is that of shuffled votes, which `whyscore seeds` compares with the run's.
    names = ("iteration-02/ranking/adapter", "model")
    last, model = (json.loads((of_control / f"{name}.json").read_text()) for name in names)
    assert last["key"] == model["key"] != json.loads((of_run / "model.json").read_text())["key"]
    assert "Beside its controls" in (of_run / "report/report.html").read_text()


def test_its_model_rates_new_images_and_an_unreadable_one_has_its_problem(
    finished: Finished, prefect_server: str, tmp_path: Path
) -> None:
    images = sorted((finished.data / "scores/images").glob("test-*"))[:3]
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    copy = shutil.copy(images[0], tmp_path / "copy.jpg")
    recipe = write_recipe(tmp_path, finished.data, finished.store)
    given = [*map(str, images), str(copy), str(tmp_path / "bad.jpg")]
    said = CliRunner().invoke(app, ["predict", str(recipe), *given, "--out", str(tmp_path / "out.csv")])
    assert said.exit_code == 0, said.output
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["image"].tolist() == given and table["ratings"].tolist()[-1] == 0
    assert table["problem"].notna().tolist() == [False] * 4 + [True] and table["rating"][:4].between(1, 5).all()
    # One content has one rating. Its noise follows from the path, so it differs from that of the evaluation.
    assert table["rating"][0] == table["rating"][3]
    none = CliRunner().invoke(app, ["predict", str(recipe), given[-1], "--out", str(tmp_path / "none.csv")])
    assert none.exit_code == 1 and "none of the 1 images could be rated" in none.output
    wrong = CliRunner().invoke(app, ["predict", str(recipe), *given, "--iteration", "7"])
    assert wrong.exit_code == 1 and "rounds with a model: 1, 2" in wrong.output


def test_self_improve_starts_from_its_model(finished: Finished, run: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(finished.store, tmp_path / "store")
    table = write_dataset(tmp_path / "data", seed=5, train=24, val=16, test=8)
    fields = yaml.safe_load((ROOT / "recipes/self_improve/from_evo_quality.yaml").read_text())
    fields["model"]["from_run"]["name"] = "small"
    fields |= {"iterations": 1, "faithfulness": {"rows": 0}, "evaluation": {"bootstrap_samples": 100}}
    fields["data"]["table"] = str(table)
    fields["runtime"] |= {"store": str(tmp_path / "store")}
    (tmp_path / "stacked.yaml").write_text(yaml.safe_dump(fields))
    status, _, log = run(tmp_path / "stacked.yaml")
    assert status == 0, log[-3000:]
    assert "(the model of run small)" in (tmp_path / "store/runs/from_evo_quality/report/report.html").read_text()
    store = ArtifactStore(str(tmp_path / "store"))
    model = json.loads((tmp_path / "store/runs/small/model.json").read_text())
    (generated,) = store.children("steps/generate")
    manifest = store.lookup(f"steps/generate/{generated}")
    assert isinstance(manifest, Manifest)
    assert manifest.arguments["inputs"]["model"]["folded"] == [{"key": model["key"], "stage": "train_ranking"}]
