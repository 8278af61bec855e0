"""Paired differences of models: which are compared, on which images, and that pairs beat separate intervals."""

import numpy as np
import pytest
from scipy import stats

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.differences import differences
from pipeline_lib.methods.self_improve.report.lineage import on_split
from pipeline_lib.methods.self_improve.tables import DIFFERENCES
from pipeline_lib.tables.table import conform


def model(run: RunResults, name: str) -> ModelResults:
    return next(model for model in run.models if model.name == name)


def test_every_comparison_that_a_sentence_makes(run: RunResults) -> None:
    conform(run.differences, DIFFERENCES.schema)
    pairs = {(row["earlier"], row["later"]) for row in run.differences.to_pylist()}
    assert pairs == {
        ("zero-shot", "ite-1 score"), ("zero-shot", "ite-2 merged"), ("zero-shot", "ite-3 merged"),
        ("ite-1 score", "ite-2 merged"), ("ite-2 merged", "ite-3 merged"), ("ite-1 score", "ite-3 merged"),
        ("ite-2 score", "ite-2 merged"), ("ite-2 consistency", "ite-2 merged"),
        ("ite-3 score", "ite-3 merged"), ("ite-3 consistency", "ite-3 merged"),
    }  # fmt: skip
    metrics = {row["metric"] for row in run.differences.to_pylist()}
    srccs = {f"srcc_{reading}" for reading in ("stated", "unfitted", "fitted", "monotone")}
    assert metrics == srccs | {"mae_stated", "parse_rate", "cons", "cons_corrected"}


def test_values_are_those_of_the_figures_on_the_same_images(run: RunResults) -> None:
    base, last = model(run, "zero-shot"), model(run, "ite-3 merged")
    for metric in ("srcc_stated", "srcc_monotone", "mae_stated", "parse_rate"):
        found = run.difference(base, last, metric)
        assert found is not None and found.rows == 60
        assert found.value == pytest.approx(last.metric(metric).value - base.metric(metric).value)
        assert found.low <= found.value <= found.high
    raised = run.difference(base, last, "srcc_stated")
    assert raised is not None and raised.change == "raised" and raised.low > 0


def test_cons_is_compared_on_images_that_were_judged_for_both(run: RunResults) -> None:
    base, collapsed = model(run, "ite-2 consistency"), model(run, "ite-2 merged")
    found = run.difference(base, collapsed, "cons")
    rated = [on_split(m.judged.verdicts, "test").to_pylist() for m in (base, collapsed)]
    grades = [{row["image"]: row["consistency"] for row in rows if row["status"] == "scored"} for rows in rated]
    both = [image for image in grades[0] if image in grades[1]]
    assert found is not None and 0 < found.rows == len(both) < 60
    assert found.value == pytest.approx(np.mean([grades[1][image] - grades[0][image] for image in both]))


def test_images_are_matched_by_name(run: RunResults) -> None:
    first, second = model(run, "zero-shot"), model(run, "ite-1 score")
    rows = second.predictions.num_rows
    order = np.random.default_rng(0).permutation(rows)
    shuffled = second._replace(predictions=second.predictions.take(order))
    expected, found = (differences([first, later], run.recipe.evaluation, 0) for later in (second, shuffled))
    assert found.equals(expected)
    test = on_split(first.predictions, "test")
    srcc = stats.spearmanr(test["score"].to_numpy(), test["predicted_unfitted"].to_numpy()).statistic
    assert first.metric("srcc_unfitted").value == pytest.approx(srcc)
