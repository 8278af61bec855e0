"""What is computed again, and what is not."""

import base64
import json
import pickle
import shutil
from pathlib import Path

import pytest

from flows.self_improve import self_improve
from pipeline_lib.config.load import load_recipe
from pipeline_lib.store import ArtifactStore, Manifest
from tasks.stage.plan import plan
from tests.prefect_servers import on_server, start_prefect_server

STAGES = [
    "base check_model",
    "discretize",
    "ite-1 generate",
    "ite-1 compute_reference",
    "fit_judge",
    "zero-shot evaluate",
    "zero-shot judge",
    "zero-shot probe_faithfulness",
    "ite-1 train_score",
    "ite-1 score evaluate",
    "ite-1 score judge",
    "ite-1 score probe_faithfulness",
    "ite-2 generate",
    "ite-2 swap",
    "ite-2 compute_reference",
    "ite-2 train_score",
    "ite-2 score evaluate",
    "ite-2 score judge",
    "ite-2 score probe_faithfulness",
    "ite-2 train_consistency",
    "ite-2 consistency evaluate",
    "ite-2 consistency judge",
    "ite-2 consistency probe_faithfulness",
    "ite-2 ties_merge",
    "ite-2 merged evaluate",
    "ite-2 merged judge",
    "ite-2 merged probe_faithfulness",
    "keep_anchors",
    "report",
]
AFTER_MERGE = [s for s in STAGES if s.startswith("ite-2 merged")] + ["keep_anchors", "report"]


def test_a_run_computes_every_stage_once_and_leaves_a_report(finished):
    folder, watched = finished
    assert watched.computed == STAGES
    assert watched.cached == []
    report = folder / "store" / "runs" / "small" / "report"
    assert "ite-2 merged" in (report / "results.txt").read_text()
    assert "<html" in (report / "report.html").read_text()
    pointer = json.loads((folder / "store/runs/small/iteration-02/consistency_pairs.json").read_text())
    table = ArtifactStore(str(folder / "store")).read_table(pointer["address"], "consistency_pairs")
    assert table.num_rows == 40
    for row in table.to_pylist():
        assert row["rejected"].startswith(f"#Score: {row['true_score']}\n")


def test_a_finished_run_computes_nothing(again, run_flow):
    watched = run_flow(again)
    assert watched.computed == []
    assert watched.cached == STAGES
    assert watched.prefect_states == ["Cached(type=COMPLETED)"] * len(STAGES)


def test_moved_and_touched_images_are_the_same_and_other_bytes_of_the_same_size_are_not(
    again, finished, run_flow, tmp_path
):
    table = Path(again.data.table)
    shutil.copytree(table.parent, tmp_path / "data")
    moved = {"runtime.store": again.runtime.store, "data.table": str(tmp_path / "data" / table.name)}
    recipe = load_recipe(finished[0] / "small.yaml", moved)
    assert run_flow(recipe).computed == []
    image = tmp_path / "data" / again_image(again)
    image.touch()
    assert run_flow(recipe).computed == []
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    missing = [stage.label for stage in plan(self_improve.fn, recipe) if stage.missing]
    assert missing == STAGES[1:]


def again_image(recipe):
    """The name of the first image of a recipe's table."""
    from pipeline_lib.data.table import read_image_list

    return read_image_list(recipe.data, recipe.seed).rows["image"].iloc[0]


@pytest.mark.parametrize(
    ("stage", "damage"), [("swap", "deleted"), ("ties_merge", "truncated"), ("ties_merge", "manifest gone")]
)
def test_a_damaged_artifact_is_computed_again_and_nothing_else(again, run_flow, stage, damage):
    store = ArtifactStore(again.runtime.store)
    (key,) = store.children(f"steps/{stage}")
    address = f"steps/{stage}/{key}"
    before = store.lookup(address)
    assert isinstance(before, Manifest)
    folder = Path(store.path(address))
    if damage == "deleted":
        shutil.rmtree(folder)
    elif damage == "truncated":
        file = folder / before.attempt / sorted(before.files)[-1]
        file.write_bytes(file.read_bytes()[:-1])
    else:
        (folder / "manifest.json").unlink()
    assert run_flow(again).computed == [f"ite-2 {stage}"]
    after = store.lookup(address)
    assert isinstance(after, Manifest)
    assert after.digest == before.digest


CHANGES = pytest.mark.parametrize(
    ("fields", "computed"),
    [
        ({"merge.density": 0.6}, ["ite-2 ties_merge", *AFTER_MERGE]),
        ({"judge.rows": 5}, [s for s in STAGES if s.endswith(" judge")] + ["report"]),
        ({"judge.anchors": 5}, ["keep_anchors", "report"]),
        ({"faithfulness.rows": 5}, [s for s in STAGES if "faithfulness" in s] + ["report"]),
        ({"runtime.shard_rows": 7, "runtime.generation_batch_size": 3}, []),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)


@CHANGES
def test_what_depends_on_a_changed_field_is_to_compute(finished, fields, computed):
    changed = load_recipe(finished[0] / "small.yaml", {"runtime.store": str(finished[0] / "store"), **fields})
    assert [stage.label for stage in plan(self_improve.fn, changed) if stage.missing is not None] == computed


def test_a_changed_merge_is_computed_and_nothing_else(again, run_flow, finished):
    """A run does what the plan says: the stages in the middle of the loop, of which a model is one."""
    changed = load_recipe(finished[0] / "small.yaml", {"runtime.store": again.runtime.store, "merge.density": 0.6})
    expected = [stage.label for stage in plan(self_improve.fn, changed) if stage.missing is not None]
    assert run_flow(changed).computed == expected == ["ite-2 ties_merge", *AFTER_MERGE]


@pytest.mark.only_with("--all-moments")
@CHANGES
def test_a_changed_field_recomputes_what_depends_on_it(again, run_flow, finished, fields, computed):
    changed = load_recipe(finished[0] / "small.yaml", {"runtime.store": again.runtime.store, **fields})
    assert run_flow(changed).computed == computed


def test_other_figures_from_the_same_answers_do_not_ask_the_model_again(again, run_flow, finished, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipeline_lib.vlm.load.load_vlm", refuse)
    changed = {"runtime.store": again.runtime.store, "evaluation.confidence": 0.9}
    watched = run_flow(load_recipe(finished[0] / "small.yaml", changed))
    assert watched.computed == [s for s in STAGES if "evaluate" in s or " judge" in s or "faith" in s] + [
        "keep_anchors", "report",
    ]  # fmt: skip


def test_a_new_prefect_database_changes_nothing(again, run_flow, libraries, prefect_folder, tmp_path):
    folder = tmp_path / "prefect"
    # The server goes on until the tests end, because Prefect sends it the events of this run when it likes.
    with on_server(start_prefect_server(libraries, folder, prefect_folder / "empty.db"), folder):
        assert run_flow(again).computed == []


def test_a_result_record_in_the_store_is_never_interpreted(again, run_flow, tmp_path):
    """Prefect's records name their own serializer, so one that says `pickle` would run what it holds."""
    store, trace = ArtifactStore(again.runtime.store), tmp_path / "trace"
    run = pickle.dumps(_Touch(str(trace)))
    record = {"metadata": {"serializer": {"type": "pickle"}}, "result": base64.encodebytes(run).decode()}
    for stage in store.children("steps"):
        for key in store.children(f"steps/{stage}"):
            store.files.write(store.path(f"prefect/{stage}-{key}"), json.dumps(record).encode())
    watched = run_flow(again)
    assert watched.prefect_states == ["Cached(type=COMPLETED)"] * len(STAGES)
    assert not trace.exists()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_branches_may_be_left_untested(again, run_flow, finished):
    fields = {"runtime.store": again.runtime.store, "evaluation.branches": "val"}
    watched = run_flow(load_recipe(finished[0] / "small.yaml", fields))
    branches = [f"ite-2 {kind} {stage}" for kind in ("score", "consistency") for stage in ("evaluate", "judge")]
    assert watched.computed == [*branches, "keep_anchors", "report"]
    store = ArtifactStore(again.runtime.store)
    pointer = store.read_pointer("runs/small/iteration-02/consistency/predictions.json")
    assert set(store.read_table(pointer["address"], "predictions")["split"].to_pylist()) == {"val"}
    results = Path(store.path("runs/small/report/results.txt")).read_text()
    assert "On validation" in results
    assert [line.split()[:2] for line in results.splitlines()].count(["ite-2", "score"]) == 1  # the table's line
