"""How well scores are predicted: scatter with calibration, and which digits are stated."""

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pipeline_lib.methods.self_improve.recipe import SCORES
from pipeline_lib.methods.self_improve.report.contents import ModelResults, Reading, RunResults
from pipeline_lib.methods.self_improve.report.lineage import compared, on_split, unparsed_answers
from pipeline_lib.report.style import FAINT, GREY, INK, SCORE, draw_svg, shade
from pipeline_lib.sampling import draw_rows

WIDTH_PX, SCATTER_HEIGHT_PX, DIGITS_HEIGHT_PX = 346, 346, 225

MAX_DOTS = 1500
"""Of more images a scatter shows a random sample of this size, so that the page is small and the dots are apart."""


def scatter_figures(results: RunResults) -> list[Markup]:
    """True against predicted score on test, for zero-shot, iteration 1 and the final model, on equal axes."""
    models = compared(results)
    limits = shown_range(on_split(models[0].predictions, "test")["score"].to_numpy())
    return [
        draw_svg(
            lambda axes, model=model: _draw_scatter(axes, model, results.reading, limits),  # type: ignore[misc]
            WIDTH_PX,
            SCATTER_HEIGHT_PX,
            name=f"scatter-{model.name}",
            description=f"True against predicted score of {model.name} on test",
        )
        for model in models
    ]


def digit_figures(results: RunResults) -> list[Markup]:
    """How often each digit is stated beside how often it is true, for the same models, on equal axes."""
    models = compared(results)
    top = max(max(*_shares(model)[0], *_shares(model)[1], _unparsed_share(model)) for model in models)
    return [
        draw_svg(
            lambda axes, model=model: _draw_digits(axes, model, top),  # type: ignore[misc]
            WIDTH_PX,
            DIGITS_HEIGHT_PX,
            name=f"digits-{model.name}",
            description=f"Share of stated digits and of true bins for {model.name} on test",
        )
        for model in models
    ]


def shown_range(true: NDArray[np.float64]) -> tuple[float, float]:
    """The range of scores to draw: that of the true scores and a quarter more on both sides.

    Reference values fitted on few images can throw single predictions far out; they must not squash all others.
    """
    slack = 0.25 * float(np.ptp(true)) or 0.5
    return float(true.min()) - slack, float(true.max()) + slack


def calibration(
    predicted: NDArray[np.float64], true: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean predicted and mean true score of ten equal groups by prediction, fewer for fewer images."""
    groups = np.array_split(np.argsort(predicted, kind="stable"), min(10, len(predicted)))
    return np.array([predicted[g].mean() for g in groups]), np.array([true[g].mean() for g in groups])


def _draw_scatter(axes: Axes, model: ModelResults, reading: Reading, limits: tuple[float, float]) -> None:
    test, column = on_split(model.predictions, "test"), f"predicted_{reading}"
    dots = draw_rows(test, min(1.0, MAX_DOTS / test.num_rows), "report:scatter")
    axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    predicted, scores = dots[column].to_numpy(), dots["score"].to_numpy()
    for marker, of in ((".", _inside(predicted, limits)), ("<", predicted < limits[0]), (">", predicted > limits[1])):
        x, colour = np.clip(predicted[of], *limits), shade(SCORE, 0.5 if marker == "." else 1.0)
        axes.scatter(x, scores[of], s=30, marker=marker, color=colour, linewidth=0, zorder=2, clip_on=False)
    outside = int((~_inside(test[column].to_numpy(), limits)).sum())
    if outside:
        axes.text(0.98, 0.03, f"{outside} outside", transform=axes.transAxes, horizontalalignment="right", color=GREY)
    true = test["score"].to_numpy()
    paper = calibration(test["predicted_fitted"].to_numpy(), true)
    axes.plot(
        *paper, color=GREY, marker="s", markersize=4, markerfacecolor="white", linewidth=0.9, label="fitted", zorder=3
    )
    used = calibration(test[column].to_numpy(), true)
    axes.plot(*used, color=INK, marker="o", markersize=4.5, linewidth=1.2, label=reading, zorder=4)
    axes.set_title(model.name)
    axes.set_xlabel("predicted score, data set's scale")
    axes.set_ylabel("true score, data set's scale")
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.set_box_aspect(1)
    axes.legend(loc="upper left", handlelength=1.6, borderaxespad=0.1, labelspacing=0.2)


def _inside(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


def _shares(model: ModelResults) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of test images with each stated digit (of all answers, parsed or not) and with each true bin."""
    test = on_split(model.predictions, "test")
    stated = test["stated_score"].drop_null().to_numpy().astype(np.int64)
    rows = max(test.num_rows, 1)
    true = np.bincount(test["bin"].to_numpy().astype(np.int64), minlength=len(SCORES))
    return np.bincount(stated, minlength=len(SCORES)) / rows, true / rows


def _unparsed_share(model: ModelResults) -> float:
    return unparsed_answers(model) / max(int(on_split(model.predictions, "test").num_rows), 1)


def _draw_digits(axes: Axes, model: ModelResults, top: float) -> None:
    stated, true = _shares(model)
    axes.bar(SCORES, stated, width=0.72, color=shade(SCORE, 0.7), label="stated")
    axes.bar(10.4, _unparsed_share(model), width=0.72, facecolor="white", edgecolor=INK, linewidth=0.7, hatch="/////")
    edges = np.arange(-0.5, 10.0, 1.0)
    axes.stairs(true, edges, color=INK, linewidth=1.2, label="true bin")
    axes.set_title(model.name)
    axes.set_xticks([*SCORES, 10.4], [*map(str, SCORES), "none"])
    axes.set_xlabel("digit; none: the text did not parse")
    axes.set_ylabel("share of test images")
    axes.set_ylim(0, 1.25 * top)
    axes.grid(True, axis="y", color=FAINT)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", ncols=2, handlelength=1.2, borderaxespad=0.1, columnspacing=1.0)
