"""The verdict for a person: its answers follow the intervals, and its sentences agree with its answers."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from report_run import difference_replaced, metric_replaced

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.control_figures import control_figures
from pipeline_lib.methods.self_improve.report.lineage import on_split
from pipeline_lib.methods.self_improve.report.plain_verdict import best_model, plain_verdict
from pipeline_lib.report.verdict import Verdict, verdict_text

USED = "srcc_monotone"
NAN = float("nan")


def on_validation(run: RunResults, model: str, metric: str, value: float) -> RunResults:
    """The run with another figure of one model on validation."""

    def replaced(metrics: pa.Table) -> pa.Table:
        rows: list[dict[str, Any]] = metrics.to_pylist()
        for row in rows:
            if (row["metric"], row["split"]) == (metric, "val"):
                row["value"] = value
        return pa.Table.from_pylist(rows, schema=metrics.schema)

    models = [m._replace(metrics=replaced(m.metrics)) if m.name == model else m for m in run.models]
    return run._replace(models=models)


def changed(run: RunResults, **config: Any) -> RunResults:
    return run._replace(recipe=run.recipe.model_copy(update=config))


def said(verdict: Verdict, question: str) -> str:
    """The answer and the sentences of a point, by a word of its question."""
    (point,) = (point for point in verdict.points if question in point.question)
    return " ".join([point.answer, *point.reasons])


@pytest.mark.parametrize(
    ("srcc", "answer", "because"),
    [
        ((0.93, 0.87, 0.96), "yes", "above 0"),
        ((0.3, 0.05, 0.5), "yes", "above 0"),
        ((-0.03, -0.1, 0.04), "no", "at best hardly more than 0"),
        ((0.1, 0.02, 0.19), "no", "at best hardly more than 0"),
        ((0.2, -0.1, 0.5), "not shown", "the interval holds 0"),
        ((0.5, NAN, NAN), "not shown", "there is no interval"),
    ],
)
def test_the_answer_follows_the_interval(
    run: RunResults, srcc: tuple[float, float, float], answer: str, because: str
) -> None:
    verdict = plain_verdict(metric_replaced(run, "ite-3 merged", USED, srcc))
    assert verdict.answer == answer
    useful = said(verdict, "good images from bad ones")
    assert useful.lower().startswith(answer) and because in useful
    warned = [warning for warning in verdict.warnings if "good images from bad ones" in warning]
    assert len(warned) == (answer != "yes")
    assert any("training images" in step for step in verdict.next_steps) == (answer != "yes")
    assert any("whyscore predict" in step for step in verdict.next_steps) == (answer == "yes")


def test_a_model_with_one_score_for_all_images_is_of_no_use(run: RunResults) -> None:
    best = run.models[-1]
    at = best.predictions.column_names.index("predicted_monotone")
    constant = pa.array([5.0] * best.predictions.num_rows)
    flat = best._replace(predictions=best.predictions.set_column(at, "predicted_monotone", constant))
    run = metric_replaced(run._replace(models=[*run.models[:-1], flat]), flat.name, USED, (NAN, NAN, NAN))
    verdict = plain_verdict(run)
    assert verdict.answer == "no" and "one score" in said(verdict, "good images from bad ones")
    assert "50 % of all pairs" in said(verdict, "good images from bad ones")
    far = said(verdict, "far off")
    assert "hardly differ" in far and "not shown that the model is nearer" in far


@pytest.mark.parametrize(
    ("difference", "answer", "because"),
    [
        ((0.5, 0.3, 0.7), "Yes", "difference +.500 [.30 .70]"),
        ((0.1, -0.1, 0.3), "Not shown", "holds 0, so no gain is shown"),
        ((-0.2, -0.3, -0.1), "No", "Training lowered it"),
        ((NAN, NAN, NAN), "Not shown", "cannot be compared"),
    ],
)
def test_what_training_taught_follows_the_paired_difference(
    run: RunResults, difference: tuple[float, float, float], answer: str, because: str
) -> None:
    verdict = plain_verdict(difference_replaced(run, "zero-shot", "ite-3 merged", USED, difference))
    taught = said(verdict, "Did training")
    assert taught.startswith(answer) and because in taught
    assert any("training" in warning for warning in verdict.warnings) == (answer == "No")
    assert any("whyscore control" in step for step in verdict.next_steps) == (answer == "Yes")


def test_a_gain_counts_only_beyond_the_control(run: RunResults) -> None:
    bootstrap = run.recipe.evaluation.bootstrap
    tables = {
        name: control_figures(run.models[0], run.models[-1], control, bootstrap, 0)
        for name, control in (("zero-shot", run.models[0]), ("equal", run.models[-1]))
    }
    beyond = plain_verdict(run._replace(control=tables["zero-shot"]))
    assert said(beyond, "Did training").startswith("Yes. ") and "is beyond the control" in said(beyond, "Did training")
    equal = plain_verdict(run._replace(control=tables["equal"]))
    assert said(equal, "Did training").startswith("No. ") and "does not count" in said(equal, "Did training")
    assert any("does not count" in warning for warning in equal.warnings)
    assert equal.answer == "yes"  # the base or noise taught it, but it does tell
    assert not any("whyscore control" in step for verdict in (beyond, equal) for step in verdict.next_steps)
    earlier = on_validation(run._replace(control=tables["equal"]), "ite-1 score", "srcc_unfitted", 0.99)
    assert "compared with ite-3 merged" in said(plain_verdict(earlier), "Did training")


def test_the_best_model_is_that_of_validation_and_not_of_test(run: RunResults) -> None:
    assert best_model(run).name == "ite-3 merged"
    worse_on_test = metric_replaced(run, "ite-3 merged", "srcc_unfitted", (-0.5, -0.6, -0.4))
    assert best_model(worse_on_test).name == "ite-3 merged"
    earlier = on_validation(run, "ite-1 score", "srcc_unfitted", 0.99)
    verdict = plain_verdict(earlier)
    assert best_model(earlier).name == "ite-1 score"
    assert verdict.best is not None and (verdict.best.iteration, verdict.best.kind) == (1, "score")
    assert "final model, ite-3 merged" in said(verdict, "best")
    assert any("iterations: 1 is enough" in step for step in verdict.next_steps)


def test_of_equal_models_the_earliest_is_the_best_and_a_branch_or_collapsed_one_never(run: RunResults) -> None:
    for name in ("zero-shot", "ite-1 score", "ite-2 merged", "ite-3 merged"):
        run = on_validation(run, name, "srcc_unfitted", 0.5)
    assert best_model(run).name == "zero-shot"
    assert best_model(on_validation(run, "ite-3 consistency", "srcc_unfitted", 0.9)).name == "zero-shot"
    collapsed = on_validation(
        on_validation(run, "ite-3 merged", "srcc_unfitted", 0.9), "ite-3 merged", "parse_rate", 0.1
    )
    assert best_model(collapsed).name == "zero-shot"
    assert any("ite-3 merged lost the form" in step for step in plain_verdict(collapsed).next_steps)
    assert best_model(on_validation(run, "zero-shot", "srcc_unfitted", NAN)).name == "ite-1 score"


def test_a_base_that_is_best_means_that_training_taught_nothing(run: RunResults) -> None:
    verdict = plain_verdict(on_validation(run, "zero-shot", "srcc_unfitted", 0.999))
    assert said(verdict, "Did training").startswith("No. ") and "base model without training" in said(verdict, "best")
    assert any("grid-search" in step for step in verdict.next_steps)
    only = plain_verdict(run._replace(models=run.models[:1]))
    assert "Nothing was trained" in said(only, "Did training") and not any("grid" in step for step in only.next_steps)


def test_every_error_says_whether_it_is_in_bins_or_on_the_own_scale(run: RunResults) -> None:
    test = on_split(run.models[-1].predictions, "test")
    off = np.abs(test["score"].to_numpy() - test["predicted_monotone"].to_numpy()).mean()
    far = said(plain_verdict(run), "far off")
    scores = run.images["score"].to_numpy()
    assert far.startswith(f"{off:.2f} on your own scale")
    assert f"run from {scores.min():.2f} to {scores.max():.2f}" in far
    middle = np.median(on_split(run.images, "train")["score"].to_numpy())
    fixed = np.abs(test["score"].to_numpy() - middle).mean()
    assert f"{middle:.2f}, would be {fixed:.2f} off on your own scale" in far
    assert f"{run.models[-1].metric('mae_stated').value:.2f} bins off" in far and "a bin, 0 to 9" in far


def test_next_steps_are_for_what_this_run_lacks(run: RunResults) -> None:
    def steps(of: RunResults) -> str:
        return " ".join(plain_verdict(of).next_steps)

    assert "real model" not in steps(run)
    assert "real model" in steps(changed(run, model=run.recipe.model.model_copy(update={"id": "bundled"})))
    assert "test images" not in steps(run)
    assert "Give more test images" in steps(metric_replaced(run, "ite-3 merged", USED, (0.5, 0.3, 0.7)))
    assert "validation images; this run had 60" in steps(run) and "not fitted" not in steps(run)


def test_the_same_run_gives_the_same_verdict_and_it_is_read_as_it_was_written(run: RunResults) -> None:
    verdict = plain_verdict(run)
    text = verdict.model_dump_json()
    assert plain_verdict(run).model_dump_json() == text
    assert Verdict.model_validate_json(text) == verdict and json.loads(text)["answer"] == "yes"
    lines = verdict_text(verdict).splitlines()
    assert lines[0] == "Can this model tell good images from bad ones? Yes."
    assert all(step in verdict_text(verdict) for step in verdict.next_steps)
