"""Several seeds: mean, standard deviation and paired t tests, and what page and text say of them."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from pipeline_lib.report.page import render_page
from pipeline_lib.report.seeds import SEED_FIGURES, seeds_page, seeds_text, summarize


def figures(values: dict[str, dict[str, list[float]]], source: str = "predictions") -> pa.Table:
    """`{metric: {model: a value a seed}}` as a table."""
    rows: list[dict[str, Any]] = [
        {"seed": seed, "model": model, "source": source, "metric": metric, "value": value}
        | {"low": value - 0.1, "high": value + 0.1, "rows": 9}
        for metric, models in values.items()
        for model, of_seeds in models.items()
        for seed, value in enumerate(of_seeds, 1)
    ]
    return pa.Table.from_pylist(rows, schema=SEED_FIGURES.schema)


def summary(table: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["metric"], row["quantity"]): row for row in summarize(table).to_pylist()}


ZERO, FINAL, CONTROL = [0.30, 0.28, 0.35, 0.31], [0.80, 0.84, 0.79, 0.88], [0.31, 0.25, 0.40, 0.28]


def test_paired_tests_are_those_of_scipy() -> None:
    found = summary(figures({"srcc_unfitted": {"zero-shot": ZERO, "final": FINAL, "control": CONTROL}}))
    for after, before, name in (
        (FINAL, ZERO, "final less zero-shot"),
        (CONTROL, ZERO, "control less zero-shot"),
        (FINAL, CONTROL, "final less control"),
    ):
        expected = stats.ttest_rel(after, before)
        row = found["srcc_unfitted", name]
        assert row["p"] == pytest.approx(expected.pvalue)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert row["seeds"] == 4
    model = found["srcc_unfitted", "final"]
    assert (model["mean"], model["sd"]) == pytest.approx((np.mean(FINAL), np.std(FINAL, ddof=1)))
    assert math.isnan(model["p"])


def test_a_seed_without_a_figure_is_left_out_of_that_figure() -> None:
    nan = math.nan
    found = summary(figures({"srcc_fitted": {"zero-shot": ZERO, "final": [nan, *FINAL[1:]]}, "cons": {"final": FINAL}}))
    assert found["srcc_fitted", "final less zero-shot"]["seeds"] == 3
    assert found["srcc_fitted", "zero-shot"]["seeds"] == 4
    assert ("cons", "final less zero-shot") not in found


def test_one_seed_or_equal_differences_have_no_interval() -> None:
    for values in ([0.5], [0.5, 0.5, 0.5]):
        row = summary(figures({"cons": {"zero-shot": [0.25] * len(values), "final": values}}))[
            "cons", "final less zero-shot"
        ]
        assert row["mean"] == 0.25 and math.isnan(row["low"]) and math.isnan(row["p"])


def test_page_and_text_show_every_seed_the_readings_first_and_the_outcome() -> None:
    table = pa.concat_tables(
        [
            figures({"rmse_fitted": {"zero-shot": [1.0, 1.1, 1.2, 1.0], "final": [0.9, 1.2, 1.1, 1.1]}}),
            figures({"srcc_fitted": {"zero-shot": ZERO, "final": FINAL, "control": CONTROL}}),
            figures({"srcc_stated": {"zero-shot": ZERO, "final": ZERO[::-1], "control": CONTROL}}),
            figures({"cons": {"zero-shot": ZERO, "final": FINAL}}, source="verdicts"),
        ]
    )
    found = summarize(table)
    text = seeds_text("r", table, found)
    headings = text.splitlines()[2]
    assert headings.split("  ")[0] == "" and headings.index("SRCC stated") < headings.index("SRCC fitted")
    assert "Cons (verdicts)" in headings and "RMSE" not in headings
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("seed ")] == [
        f"seed {seed}, {model}" for seed in (1, 2, 3, 4) for model in ("zero-shot", "final", "control")
    ]
    outcome = "over 4 seeds: SRCC stated: no difference shown; SRCC fitted: raised; Cons (verdicts): raised."
    assert "against that of the control: SRCC stated: no difference shown; SRCC fitted: raised." in " ".join(
        text.split()
    )
    assert outcome in " ".join(text.split()) and "fewer than five seeds" in " ".join(text.split())
    page = render_page(seeds_page("r", table, found))
    assert outcome in page and "<svg" in page and "RMSE fitted" in page and "diamonds" in page
