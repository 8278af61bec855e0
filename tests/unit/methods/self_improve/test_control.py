"""A gain counts only beyond its control: the rule, and the figures that it is applied to."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.control import (
    Measured,
    control_figures,
    estimates_of,
    metrics_of,
    outcome,
)
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.report.control import control_page, control_section, control_text
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.page import render_page

N = 80
NAMES = [f"{at}.jpg" for at in range(N)]
TRUE = np.linspace(0, 9, N)
IMAGES = pa.table({"image": NAMES, "group": NAMES})
BOOTSTRAP = Bootstrap(bootstrap_samples=200)


def measured(unfitted: float, fitted: float, grade: int, readings: tuple[str, ...] = ()) -> Measured:
    """A model whose readings are the true score plus noise; the larger the number, the better."""
    rng = np.random.default_rng(7)
    noise = rng.normal(0, 6, N)
    predicted = {
        name: skill * TRUE + (1 - skill) * noise for name, skill in (("unfitted", unfitted), ("fitted", fitted))
    }
    digits = np.eye(10)[np.clip(np.round(predicted["unfitted"]), 0, 9).astype(int)]
    predictions = pa.table(
        {
            "image": NAMES,
            "split": ["test"] * N,
            "score": TRUE,
            "score_distribution": digits.tolist(),
            **{f"predicted_{name}": values for name, values in predicted.items()},
        }
    )
    names = ["srcc_unfitted", "srcc_fitted", *readings, "plcc_unfitted"]
    verdicts = pa.table({"image": NAMES, "split": ["test"] * N, "consistency": [grade] * (N - 1) + [None]})
    return Measured(predictions, metrics(names), verdicts, metrics(["cons"]))


def metrics(names: list[str]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"split": split, "metric": name, "value": 0.5, "low": 0.4, "high": 0.6, "rows": N}
        for name in names
        for split in ("val", "test")
    ]
    return pa.Table.from_pylist(rows)


def figures(final: Measured, control: Measured, zero_shot: Measured | None = None) -> pa.Table:
    zero_shot = zero_shot or measured(0.2, 0.2, 2)
    return control_figures(zero_shot, final, control, images=IMAGES, bootstrap=BOOTSTRAP, seed=0)


def test_a_gain_counts_only_beyond_the_control() -> None:
    table = figures(measured(0.9, 0.9, 3), measured(0.1, 0.9, 2))
    found = {metric: outcome(estimates_of(table, metric)) for metric in metrics_of(table)}
    assert found == {"srcc_unfitted": "counts", "srcc_fitted": "does not count", "cons": "counts"}
    worse = figures(measured(0.2, 0.1, 1), measured(0.1, 0.1, 0))
    assert {outcome(estimates_of(worse, metric)) for metric in found} == {"no gain shown"}
    cons = estimates_of(table, "cons")
    assert cons["gain"][:3] == (1, 1, 1) and cons["gain"].rows == N - 1  # one explanation was not scored


def test_every_reading_is_found_by_its_name_and_is_compared_where_predictions_are_kept() -> None:
    more = ("srcc_stated", "srcc_other", "srcc_monotone")
    table = figures(*(measured(0.9, 0.9, 3, more) for _ in range(2)), measured(0.2, 0.2, 2, more))
    order = ["srcc_stated", "srcc_unfitted", "srcc_monotone", "srcc_fitted", "srcc_other", "cons"]
    assert metrics_of(table) == order
    assert outcome(estimates_of(table, "srcc_stated")) == "does not count"
    assert outcome(estimates_of(table, "srcc_other")) == "not compared"


def test_a_reading_that_one_model_lacks_is_left_out() -> None:
    table = figures(measured(0.9, 0.9, 3, ("srcc_stated",)), measured(0.1, 0.1, 2))
    assert "srcc_stated" not in metrics_of(table)


def test_an_interval_that_touches_zero_shows_no_gain() -> None:
    def estimates(gain: float, beyond: float) -> dict[Any, Estimate]:
        return {"gain": Estimate(0.1, gain, 0.2, 9), "beyond": Estimate(0.1, beyond, 0.2, 9)}

    assert outcome(estimates(0.0, 0.1)) == "no gain shown"
    assert outcome(estimates(0.1, 0.0)) == "does not count"
    assert outcome(estimates(float("nan"), 0.1)) == "not compared"


def test_other_test_images_are_refused() -> None:
    other = measured(0.1, 0.1, 2)
    other = other._replace(predictions=other.predictions.slice(1))
    with pytest.raises(DataError):
        figures(measured(0.9, 0.9, 3), other)


def test_page_text_and_section_say_the_same() -> None:
    recipe = SelfImproveRecipe.model_validate({"name": "r", "data": {"table": "t.csv"}, "model": {"id": "bundled"}})
    table = figures(measured(0.9, 0.9, 3), measured(0.1, 0.9, 2))
    section = control_section(recipe, table)
    assert section is not None and control_section(recipe, None) is None
    conclusion = section.sentences[0]
    assert "beyond its control by: SRCC, unfitted; Cons." in conclusion
    assert "does not count, by: SRCC, fitted." in conclusion and "raised SRCC, fitted" in conclusion
    assert conclusion in " ".join(control_text(recipe, table).split())
    page = render_page(control_page(recipe, table))
    assert conclusion in page and page.count("does not count") == 2 and "<svg" in page
