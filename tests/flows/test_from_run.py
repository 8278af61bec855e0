"""A run whose base is the model of another run: methods chain, and a run goes on where another ended."""

import pytest

from flows.self_improve import self_improve
from pipeline_lib.checks.plan import plan_text
from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.gc import reachable
from pipeline_lib.store.runs import read_run
from pipeline_lib.vlm.model_ref import resolve_model
from tasks.stage.plan import plan
from tests.flows.test_resume import STAGES

FIELDS = {
    "name": "next",
    "iterations": 1,
    "model.id": "",
    "model.from_run": {"name": "small"},
    "judge.anchors": 0,
    "faithfulness.rows": 0,
    "generation.fraction": 0.5,
}


def chained(finished, store: str, **fields):
    return load_recipe(finished[0] / "small.yaml", FIELDS | {"runtime.store": store} | fields)


def test_the_model_of_a_run_is_base_and_reference_of_the_next(again, finished, run_flow):
    recipe = chained(finished, again.runtime.store)
    store = ArtifactStore(again.runtime.store)
    watched = run_flow(recipe)
    assert "base check_model" in watched.computed and "ite-1 train_score" in watched.computed
    before, after = read_run(store, "small"), read_run(store, "next")
    merged = before.find("iteration-02/merged/adapter")
    zero_shot = after.find("iteration-00/zero-shot/predictions")
    assert resolve_model(recipe.model, store).folded == (merged,)
    # Folded into the base it says what it said as an adapter: figures and texts are those of the run before.
    tables = [
        store.read_table(ref.address, "predictions")
        for ref in (zero_shot, before.find("iteration-02/merged/predictions"))
    ]
    for column in ("image", "text", "stated_score", "explanation"):
        assert tables[0][column].equals(tables[1][column]), column
    # The reference is that model too: at the first step no answer is preferred yet.
    log = store.read_table(after.find("iteration-01/score/adapter").address, "training_log")
    assert abs(log["reward_margin"][0].as_py()) < 1e-4
    assert merged.address in reachable(store, [after.find("report").address])  # so gc keeps it


def test_what_does_not_exist_is_refused(again, finished):
    store = ArtifactStore(again.runtime.store)
    for wanted in ({"name": "absent"}, {"name": "small", "model": "ite-9 merged"}):
        with pytest.raises(StoreError):
            resolve_model(chained(finished, store.root, **{"model.from_run": wanted}).model, store)
    with pytest.raises(RecipeError):
        chained(finished, store.root, **{"model.id": "bundled"})
    with pytest.raises(RecipeError):
        chained(finished, store.root, **{"model.from_run": None})


def test_a_plan_says_why_a_key_is_another_one_and_computes_nothing(again, finished):
    store = ArtifactStore(again.runtime.store)
    before = store.files.sizes(store.root)
    same = plan(self_improve.fn, again)
    assert [stage.label for stage in same] == STAGES and all(stage.missing is None for stage in same)
    changed = load_recipe(finished[0] / "small.yaml", {"runtime.store": store.root, "training.beta": 0.25})
    lines = plan_text(store, plan(self_improve.fn, changed)).splitlines()
    training = next(at for at, line in enumerate(lines) if line.startswith("ite-1 train_score"))
    assert "to compute" in lines[training] and lines[training + 1].endswith(
        f"job.loss.beta {again.training.beta} -> 0.25"
    )
    assert lines[0].endswith("cached")
    assert store.files.sizes(store.root) == before
