"""Intervals of the final model's predictions: nominal level against measured coverage on test."""

import math

from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.lineage import final
from pipeline_lib.methods.self_improve.uncertainty import LEVELS, USED_LEVEL
from pipeline_lib.report.formatting import decimal, percent
from pipeline_lib.report.style import FAINT, GREY, INK, SCORE, draw_svg

WIDTH_PX, HEIGHT_PX = 346, 300


def coverage_sentence(results: RunResults) -> str:
    """What the interval beside a prediction is worth, in figures."""
    model, level = final(results), f"{100 * USED_LEVEL:g}"
    coverage, width = model.metric_or_nan(f"coverage_{level}"), model.metric_or_nan(f"width_{level}")
    if not math.isfinite(width.value):
        return f"There are too few validation images for {level} % intervals of predictions."
    return (
        f"The {level} % interval of a prediction of {model.name} holds the true score of {percent(coverage.value)} of"
        f" the test images [{percent(coverage.low)} {percent(coverage.high)}]; its mean width is"
        f" {decimal(width.value, 2)}."
    )


def reliability_figure(results: RunResults) -> Markup:
    """Measured coverage of prediction intervals over their level, with Wilson intervals; the diagonal is exact."""
    return draw_svg(
        lambda axes: _draw(axes, results),
        WIDTH_PX,
        HEIGHT_PX,
        name="reliability",
        description=f"Measured coverage of prediction intervals of {final(results).name} over their level",
    )


def _draw(axes: Axes, results: RunResults) -> None:
    model = final(results)
    found = [model.metric_or_nan(f"coverage_{100 * level:g}") for level in LEVELS]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.errorbar(
        LEVELS,
        [e.value for e in found],
        yerr=[[e.value - e.low for e in found], [e.high - e.value for e in found]],
        color=INK,
        ecolor=SCORE,
        marker="o",
        markersize=5,
        linewidth=1.2,
        elinewidth=1.1,
    )
    axes.set_xlim(0.4, 1)
    axes.set_ylim(0.4, 1.02)
    axes.set_xlabel("level of the interval")
    axes.set_ylabel("share of test images inside")
    axes.set_title(model.name)
    axes.grid(True, color=FAINT)
    axes.set_axisbelow(True)
