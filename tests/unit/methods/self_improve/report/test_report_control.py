"""A gain counts only beyond its control: the rule, the figures that it is applied to, and what is said."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.control import control_page, control_section, control_text
from pipeline_lib.methods.self_improve.report.control_figures import (
    METRICS_SHOWN,
    control_figures,
    estimates_of,
    metrics_of,
    outcome,
)
from pipeline_lib.methods.self_improve.report.page import render_report
from pipeline_lib.methods.self_improve.report.text import results_table
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.page import render_page


def figures(run: RunResults, final: ModelResults, control: ModelResults) -> pa.Table:
    return control_figures(run.models[0], final, control, run.recipe.evaluation.bootstrap, 0)


def test_a_control_that_learnt_nothing_lets_the_gain_count_and_one_that_learnt_as_much_does_not(
    run: RunResults,
) -> None:
    zero_shot, final = run.models[0], run.models[-1]
    table = figures(run, final, zero_shot)
    assert metrics_of(table) == [metric for metric in METRICS_SHOWN if final.has(metric)]
    assert {"srcc_stated", "srcc_unfitted", "srcc_fitted", "cons"} <= set(metrics_of(table))
    found = estimates_of(table, "srcc_unfitted")
    assert outcome(found) == "counts" and found["gain"] == found["beyond"]
    assert found["control_gain"].value == 0 and found["control"] == found["zero-shot"]
    assert found["final"] == final.metric("srcc_unfitted")

    same = estimates_of(figures(run, final, final), "srcc_unfitted")
    assert outcome(same) == "does not count" and same["beyond"].value == 0
    none = estimates_of(figures(run, zero_shot, zero_shot), "srcc_unfitted")
    assert outcome(none) == "no gain shown"


def test_a_figure_that_one_model_lacks_is_left_out(run: RunResults) -> None:
    final = run.models[-1]
    kept = pa.array([name != "srcc_stated" for name in final.metrics["metric"].to_pylist()])
    table = figures(run, final._replace(metrics=final.metrics.filter(kept)), run.models[0])
    assert "srcc_stated" not in metrics_of(table) and "srcc_unfitted" in metrics_of(table)


def test_an_interval_that_touches_zero_shows_no_gain() -> None:
    def estimates(gain: float, beyond: float) -> dict[Any, Estimate]:
        return {"gain": Estimate(0.1, gain, 0.2, 9), "beyond": Estimate(0.1, beyond, 0.2, 9)}

    assert outcome(estimates(0.1, 0.1)) == "counts"
    assert outcome(estimates(0.0, 0.1)) == "no gain shown"
    assert outcome(estimates(0.1, 0.0)) == "does not count"
    assert outcome(estimates(float("nan"), 0.1)) == "not compared"


def test_other_test_images_are_refused(run: RunResults) -> None:
    final = run.models[-1]
    fewer = final._replace(predictions=final.predictions.slice(0, final.predictions.num_rows - 1))
    with pytest.raises(DataError):
        figures(run, final, fewer)


def test_page_text_and_report_say_the_same(run: RunResults, open_image: Callable[[str, str], Image.Image]) -> None:
    zero_shot, final = run.models[0], run.models[-1]
    table = figures(run, final, zero_shot)
    section = control_section(run.recipe, table)
    assert section is not None and control_section(run.recipe, None) is None
    counting = [metric for metric in metrics_of(table) if outcome(estimates_of(table, metric)) == "counts"]
    conclusion = section.sentences[0]
    assert "beyond its control by: " in conclusion and "SRCC unfitted" in conclusion and counting
    assert conclusion in " ".join(control_text(run.recipe, table).split())
    page = render_page(control_page(run.recipe, table))
    assert conclusion in page and "<svg" in page and "shuffled among these images" in page
    assert page.count("<td>counts</td>") == len(counting)

    shown = run._replace(control=table)
    html, text = render_report(shown, open_image), results_table(shown)
    assert conclusion.split(":")[0] in html and 'id="control"' in html and "Beside its control" in text
    assert conclusion in text
    assert 'id="control"' not in render_report(run, open_image) and "Beside its control" not in results_table(run)


def test_a_control_that_gains_is_named(run: RunResults) -> None:
    values = {"zero-shot": 0.1, "final": 0.5, "control": 0.4, "gain": 0.4, "control_gain": 0.3, "beyond": 0.1}
    rows = [
        {"metric": "srcc_fitted", "quantity": name, "value": value, "low": value - 0.2, "high": value + 0.2, "rows": 9}
        for name, value in values.items()
    ]
    section = control_section(run.recipe, pa.Table.from_pylist(rows))
    assert section is not None
    assert "does not count, by: SRCC fitted." in section.sentences[0]
    assert "raised SRCC fitted (.100 to .400)." in section.sentences[0]
