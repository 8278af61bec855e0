"""What the command line says of a finished run, and that nothing a run needs is ever removed."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline_lib.config.load import load_recipe
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import written
from tests.flows.test_resume import STAGES
from whyscore.cli import app


def whyscore(*arguments: object) -> str:
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert answer.exit_code == 0, answer.output
    return answer.output


def refused(*arguments: object) -> str:
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert answer.exit_code == 1
    return answer.output


def files(store: str) -> set[Path]:
    return {path for path in Path(store).rglob("*") if path.is_file()}


def test_gc_counts_and_removes_nothing_unless_told_to(again):
    before = files(again.runtime.store)
    said = whyscore("gc", "--store", again.runtime.store, "--days", 0)
    assert "checkpoints of finished stages" in said and "Nothing was removed" in said
    assert files(again.runtime.store) == before


def test_after_gc_a_run_needs_nothing_again(again, run_flow, finished, monkeypatch):
    store = again.runtime.store
    said = whyscore("gc", "--store", store, "--days", 0, "--apply")
    assert not any(kind in said for kind in ("artifacts of no run", "shards of no run", "attempts", "unfinished"))
    assert "shards of finished stages" in said and "checkpoints of finished stages" in said
    assert not list(Path(store).glob("steps/*/*/checkpoints")) and not list(Path(store).glob("steps/*/*/shards"))
    assert "Nothing to remove." in whyscore("gc", "--store", store, "--days", 0)
    assert "0 problem(s)" in whyscore("verify", store)
    watched = run_flow(again)
    assert watched.computed == [] and watched.cached == STAGES

    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipeline_lib.vlm.load.load_vlm", refuse)  # its answers are kept for other figures of them
    changed = load_recipe(finished[0] / "small.yaml", {"runtime.store": store, "evaluation.confidence": 0.9})
    assert "zero-shot evaluate" in run_flow(changed).computed


def test_gc_leaves_a_run_under_way_alone_and_forgets_one_when_told_to(again, run_flow):
    store = ArtifactStore(again.runtime.store)
    for pointer in (
        "report.json",
        "model.json",
        *(f"iteration-02/merged/{role}.json" for role in ("adapter", "predictions", "verdicts")),
    ):
        store.files.remove(store.path("runs/small", pointer))
    for stage in ("report", "ties_merge"):  # it was killed before they were published
        (key,) = store.children(f"steps/{stage}")
        store.retract(f"steps/{stage}/{key}")
    for role in ("model", "iteration-02/merged/adapter", "report"):
        store.files.remove(store.path(f"runs/small/{role}.json"))
    before = files(store.root)
    whyscore("gc", "--store", store.root, "--apply")
    assert files(store.root) == before
    assert run_flow(again).computed == ["ite-2 ties_merge", "report"]

    whyscore("gc", "--store", store.root, "--days", 0, "--forget", "small", "--apply")
    # Digests of images stay: without them the next run reads every image again.
    assert {path.relative_to(store.root).parts[0] for path in files(store.root)} <= {"image_digests"}
    assert "holds no run" in refused("gc", "--store", store.root)


def test_gc_knows_the_runs_it_may_forget(again):
    assert "--forget other: the runs in" in refused("gc", "--store", again.runtime.store, "--forget", "other")


def test_status_tells_where_a_run_stands(again, finished):
    said = whyscore("status", finished[0] / "small.yaml", "--store", again.runtime.store)
    assert "small: finished, iteration 2" in said
    results = (Path(again.runtime.store) / "runs/small/report/results.txt").read_text()
    merged = next(line for line in results.splitlines() if line.startswith("ite-2 merged"))
    srcc = float(said.split("SRCC stated ")[1].split()[0])
    assert f"{srcc:.3f}".lstrip("0") in merged
    assert "round-trip judge" in said and "Under way" not in said


def test_status_tells_what_is_under_way(again):
    store = ArtifactStore(again.runtime.store)
    for pointer in ("report.json", *(f"iteration-02/{kind}/predictions.json" for kind in ("merged", "consistency"))):
        store.files.remove(store.path("runs/small", pointer))
    (key,) = store.children("steps/train_consistency")
    store.files.remove(store.path(f"steps/train_consistency/{key}/manifest.json"))
    merged = max(Path(store.path("steps/evaluate")).iterdir(), key=lambda path: path.stat().st_mtime)
    said = whyscore("status", "--store", store.root)
    assert "small: not finished, iteration 2" in said and "ite-2 score: SRCC stated" in said
    assert f"train_consistency {key[:8]}: a checkpoint of step 5, written" in said
    assert "evaluate" not in said
    (merged / "manifest.json").unlink()
    assert ": 40 images in 3 shard(s), written" in whyscore("status", "--store", store.root)


def test_status_and_report_of_a_run_that_never_was(finished, again):
    recipe = finished[0] / "small.yaml"
    where = ["--set", f"runtime.store={again.runtime.store}"]
    assert "run other" in refused("status", recipe, "--set", "name=other", *where)
    assert "run other" in refused("report", recipe, "--set", "name=other", *where)
    ArtifactStore(again.runtime.store).files.remove(f"{again.runtime.store}/runs/small/report.json")
    assert "run small" in refused("report", recipe, *where)


@pytest.mark.parametrize("command", ["status", "report", "export", "predict"])
def test_a_recipe_that_did_not_run_is_refused_with_what_differs(finished, again, tmp_path, command):
    more = {"export": ["--export", tmp_path / "exported"], "predict": [finished[0] / "data" / "images"]}.get(
        command, []
    )
    where = ["--set", f"runtime.store={again.runtime.store}"]
    arguments = ["predict" if more else command, finished[0] / "small.yaml", *more, *where]
    said = refused(*arguments, "--set", "seed=77")
    assert "seed is 77, it was" in said and "learning_rate" not in said and not (tmp_path / "exported").exists()
    (Path(again.runtime.store) / "runs/small/run.json").unlink()
    if command == "status":
        assert "run.json" in whyscore(*arguments)
    else:
        assert "run.json" in refused(*arguments)


def test_a_run_removes_the_pointers_of_the_recipe_before_it(again, run_flow, finished):
    store = ArtifactStore(again.runtime.store)
    fewer = {"runtime.store": store.root, "iterations": 1}
    assert run_flow(load_recipe(finished[0] / "small.yaml", fewer)).computed == ["keep_anchors", "report"]
    folders = {path.partition("/")[0] for path in written(store)["small"] if "/" in path}
    assert folders == {"iteration-00", "iteration-01", "report"}
    said = whyscore("status", finished[0] / "small.yaml", "--store", store.root, "--set", "iterations=1")
    assert "small: finished, iteration 1" in said


def test_report_prints_the_results_again(finished, again, monkeypatch):
    shutil.rmtree(Path(again.runtime.store) / "steps")  # nothing is looked up, nothing computed
    said = whyscore("report", finished[0] / "small.yaml", "--set", f"runtime.store={again.runtime.store}")
    assert "ite-2 merged" in said and "report.html" in said


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whyscore.commands.stores.show_log", lambda: None)  # CliRunner's streams end with it
