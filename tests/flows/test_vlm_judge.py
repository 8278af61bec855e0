"""self_improve with a judge that sees the image: the model of another run, beside the round-trip judge."""

import pytest

from flows.self_improve import self_improve
from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import read_run
from tasks.stage.plan import plan

JUDGE = {"judge.vlm.from_run": {"name": "small"}, "judge.vlm.prompt": "short", "judge.vlm.max_new_tokens": 64}


def seeing(finished, store: str, **fields):
    return load_recipe(
        finished[0] / "small.yaml", {"runtime.store": store, "name": "seen", "iterations": 1} | JUDGE | fields
    )


def test_a_model_of_a_run_rates_the_explanations_with_their_images(again, finished, run_flow):
    store = ArtifactStore(again.runtime.store)
    watched = run_flow(seeing(finished, store.root))
    assert [stage for stage in watched.computed if "judge_vlm" in stage] == [
        "zero-shot judge_vlm",
        "ite-1 score judge_vlm",
    ]
    run = read_run(store, "seen")
    verdicts = store.read_table(run.find("iteration-00/zero-shot/vlm_verdicts").address, "vlm_verdicts")
    assert verdicts.num_rows and set(verdicts["grade"].to_pylist()) <= {0, 2, 4, None}
    assert set(verdicts["aspect"].to_pylist()) <= {"true_of_image", "fits_score", "useful"}
    metrics = store.read_table(run.find("iteration-00/zero-shot/vlm_verdicts").address, "metrics")
    assert {"vlm_fits_score", "above_shuffled", "round_trip_above_shuffled"} <= set(metrics["metric"].to_pylist())
    page = store.path("runs/seen/report/report.html")
    with open(page, encoding="utf-8") as file:
        html = file.read()
    assert "What does a judge say that sees the image?" in html
    assert ("the judge is fooled" in html) or ("tells the explanations from both controls" in html)


def test_its_model_and_prompt_are_in_the_key_and_are_looked_for_before_the_first_stage(again, finished):
    store = again.runtime.store

    def keys(**fields):
        stages = plan(self_improve.fn, seeing(finished, store, **fields))
        return [stage.ref.key for stage in stages if stage.ref.stage == "judge_vlm"]

    base = keys()
    others = [{"judge.vlm.prompt": "criteria"}, {"judge.vlm.rows": 3}, {"judge.vlm.max_new_tokens": 9}]
    others.append({"judge.vlm.from_run": {"name": "small", "model": "ite-1 score"}})
    assert base and all(keys(**fields) != base for fields in others)
    with pytest.raises(StoreError):
        keys(**{"judge.vlm.from_run": {"name": "absent"}})
    with pytest.raises(RecipeError):
        keys(**{"judge.vlm.prompt": "absent"})
