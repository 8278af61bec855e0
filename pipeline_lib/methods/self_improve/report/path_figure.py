"""The paper's Fig. 1 for one run: SRCC against Cons, with the path of self-training.

The paper draws fitted SRCC and plain Cons, which both rise on noise too (docs/experiments.md). This figure draws SRCC
of the used reading, and Cons corrected for chance where the judge allows it.
"""

import itertools
import math

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline_lib.methods.self_improve.report.ceilings import ceilings
from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.lineage import is_on_main_line, main_line
from pipeline_lib.methods.self_improve.report.verdict import cons_column, used_srcc
from pipeline_lib.report.formatting import CONS_CORRECTED, Column
from pipeline_lib.report.style import GREY, INK, KIND_COLOUR, KIND_MARKER, draw_svg, shade

Columns = tuple[Column, Column]
"""SRCC and Cons."""

WIDE_PX = (830, 470)
NARROW_PX = (384, 400)
"""For a phone, where the letters of the wide drawing would be too small."""

_OFFSETS = [(dx, dy) for r in (13, 24, 36) for dx, dy in ((r, 0), (0, r), (0, -r), (-r, 0), (r, r), (r, -r), (-r, r))]


def path_figure(results: RunResults, size_px: tuple[int, int] = WIDE_PX) -> Markup:
    """SRCC on x and Cons on y, a mark a model, intervals as bars, the path in order of iterations."""
    return draw_svg(
        lambda axes: _draw(axes, results),
        *size_px,
        name=f"path-{size_px[0]}",
        description="SRCC against Cons for every model of the run; the table of results holds the same figures.",
    )


def unplaceable(results: RunResults) -> list[str]:
    """Names of models without a defined SRCC or Cons, which the figure leaves out."""
    return [model.name for model in results.models if not _is_defined(model, _columns(results))]


def _columns(results: RunResults) -> Columns:
    return used_srcc(results), cons_column(results)


def _is_defined(model: ModelResults, columns: Columns) -> bool:
    return all(math.isfinite(number) for column in columns for number in model.metric_or_nan(column.metric)[:3])


def _draw(axes: Axes, results: RunResults) -> None:
    columns = _columns(results)
    axes.set_xlabel(f"SRCC on test, {results.reading}")
    corrected = "corrected for chance: 0 chance, 1 best" if columns[1] == CONS_CORRECTED else "mean grade 0 to 4"
    axes.set_ylabel(f"Cons on test, {corrected}")
    axes.grid(True)
    axes.set_axisbelow(True)
    shown = [model for model in results.models if _is_defined(model, columns)]
    for model in shown:
        _draw_model(axes, model, columns)
    line = [model for model in main_line(results) if _is_defined(model, columns)]
    for before, after in itertools.pairwise(line):
        axes.annotate(
            "",
            xy=_place(after, columns),
            xytext=_place(before, columns),
            arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.4, "shrinkA": 6, "shrinkB": 6},
            zorder=3,
        )
    limits = ceilings(results)
    _frame(axes, shown, columns, [ceiling.srcc for ceiling in limits])
    for ceiling in limits:
        axes.axvline(ceiling.srcc, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
        axes.text(
            ceiling.srcc, 0.02, f"{ceiling.name} ", color=GREY, fontsize=10, rotation=90,
            horizontalalignment="right", verticalalignment="bottom", transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    _label(axes, shown, line, columns)


def _frame(axes: Axes, models: list[ModelResults], columns: Columns, ceilings: list[float]) -> None:
    """Show every mark, the main line's intervals and the ceilings; wide intervals of a collapsed branch are cut."""
    for column, set_limits in ((columns[0], axes.set_xlim), (columns[1], axes.set_ylim)):
        found = [(model.metric(column.metric), is_on_main_line(model)) for model in models]
        numbers = [number for estimate, main in found for number in (estimate[:3] if main else estimate[:1])]
        numbers += ceilings if column == columns[0] else []
        if numbers:
            slack = 0.08 * (max(numbers) - min(numbers)) or 0.1
            set_limits(min(numbers) - slack, max(numbers) + slack)


def _place(model: ModelResults, columns: Columns) -> tuple[float, float]:
    return model.metric(columns[0].metric).value, model.metric(columns[1].metric).value


def _draw_model(axes: Axes, model: ModelResults, columns: Columns) -> None:
    main = is_on_main_line(model)
    srcc, cons = (model.metric(column.metric) for column in columns)
    colour = shade(KIND_COLOUR[model.kind], 1.0 if main else 0.55)
    axes.errorbar(
        srcc.value,
        cons.value,
        # A percentile interval may lie beside the figure.
        xerr=[[max(0.0, srcc.value - srcc.low)], [max(0.0, srcc.high - srcc.value)]],
        yerr=[[max(0.0, cons.value - cons.low)], [max(0.0, cons.high - cons.value)]],
        ecolor=shade(KIND_COLOUR[model.kind], 0.4 if main else 0.25),
        elinewidth=1.1,
        marker=KIND_MARKER[model.kind],
        markersize=8 if main else 6,
        color=colour,
        markerfacecolor=colour if main else "white",
        zorder=4 if main else 2,
    )


def _label(axes: Axes, models: list[ModelResults], line: list[ModelResults], columns: Columns) -> None:
    """Put each name where it hides the least of marks, arrows and other names."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places are in pixels, and the layout moves the axes
    places = {model.name: axes.transData.transform(_place(model, columns)) for model in models}
    marks = [tuple(places[model.name]) for model in models]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in marks]
    for before, after in itertools.pairwise(line):
        points = np.linspace(places[before.name], places[after.name], 60)
        taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in points]
    order = sorted(range(len(models)), key=lambda at: not is_on_main_line(models[at]))
    for at in order:
        model, (x, y) = models[at], marks[at]
        main = is_on_main_line(model)
        width = 6.6 * len(model.name)
        boxes = [_box(x, y, dx, dy, width) for dx, dy in _OFFSETS]
        frame = axes.bbox
        costs = [
            sum(_overlap(box, other) for other in taken)
            + 1000 * (box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1)
            + 1.5 * math.hypot(dx, dy)  # a name far from its mark is read as another mark's
            for box, (dx, dy) in zip(boxes, _OFFSETS, strict=True)
        ]
        best = costs.index(min(costs))
        dx, dy = _OFFSETS[best]
        taken.append(boxes[best])
        axes.annotate(
            model.name,
            xy=_place(model, columns),
            xytext=(dx, dy),
            textcoords="offset pixels",
            horizontalalignment="left" if dx > 0 else "right" if dx < 0 else "center",
            verticalalignment="center",
            color=INK if main else GREY,
            fontweight="bold" if main else "normal",
            fontsize=12 if main else 11,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6} if math.hypot(dx, dy) > 20 else None,
            zorder=5,
        )


def _box(x: float, y: float, dx: float, dy: float, width: float) -> tuple[float, float, float, float]:
    left = x + dx - (0 if dx > 0 else width if dx < 0 else width / 2)
    return left, y + dy - 7, left + width, y + dy + 7


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
