"""Figures of the faithfulness probe over the iterations: does a text tell its score and depend on its image?"""

import math

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.lineage import main_line
from pipeline_lib.report.formatting import (
    FROM_IMAGE,
    FROM_TEXT,
    IMAGE_TEXT_GAP,
    NAMES_FAULT,
    NAMES_FAULT_CHANCE,
    OTHER_SCORE,
    OWN_SCORE,
    RECOVERED_MAE,
    RECOVERED_SPEARMAN,
    SAME_TEXT,
    SCORE_CHANGE,
    TEXT_CHANGE,
    TEXT_CHANGE_BASELINE,
    Column,
)
from pipeline_lib.report.style import CONSISTENCY, GREY, INK, SCORE, draw_svg, shade

_GROUPS: tuple[tuple[str, tuple[Column, ...]], ...] = (
    ("Score from text alone", (RECOVERED_SPEARMAN, RECOVERED_MAE)),
    ("Other image, same score", (TEXT_CHANGE, TEXT_CHANGE_BASELINE, SAME_TEXT)),
    ("Other score", (SCORE_CHANGE,)),
    ("SRCC from image and text", (FROM_IMAGE, FROM_TEXT, IMAGE_TEXT_GAP)),
    ("Score as a number", (OWN_SCORE, OTHER_SCORE)),
    ("Known fault", (NAMES_FAULT, NAMES_FAULT_CHANCE)),
)

WIDTH_PX, HEIGHT_PX = 346, 235

_PANELS: tuple[tuple[str, str, tuple[tuple[Column, str, str, str], ...]], ...] = (
    (
        "Score read from the text",
        "Spearman with the stated score",
        ((RECOVERED_SPEARMAN, "", INK, "o"),),
    ),
    (
        "Text change with another image",
        "share of words that change",
        ((TEXT_CHANGE_BASELINE, "own answers", GREY, "s"), (TEXT_CHANGE, "other image", SCORE, "o")),
    ),
    (
        "Score named as a number",
        "share of explanations",
        ((OWN_SCORE, "the stated one", SCORE, "o"), (OTHER_SCORE, "another", CONSISTENCY, "D")),
    ),
)


def faithfulness_groups(results: RunResults) -> list[tuple[str, tuple[Column, ...]]]:
    """The columns of the table with the headings of their groups, those that were measured."""
    return [
        (title, columns) for title, columns in _GROUPS if any(model.has(columns[0].metric) for model in results.models)
    ]


def probed(results: RunResults) -> bool:
    """Whether the explanations of this run were probed."""
    return any(model.has(TEXT_CHANGE.metric) for model in results.models)


def faithfulness_figures(results: RunResults) -> list[Markup]:
    """Three panels over zero-shot, iteration 1 and the merged models: score from text, text change, scores named."""
    models = main_line(results)
    return [
        draw_svg(
            lambda axes, title=title, label=label, lines=lines: _draw(axes, models, title, label, lines),  # type: ignore[misc]
            WIDTH_PX,
            HEIGHT_PX,
            name=f"faithfulness-{at}",
            description=f"{title}, over the iterations; the table has the same figures",
        )
        for at, (title, label, lines) in enumerate(_PANELS)
    ]


def _draw(
    axes: Axes, models: list[ModelResults], title: str, label: str, lines: tuple[tuple[Column, str, str, str], ...]
) -> None:
    lowest = 0.0
    for at, (column, name, colour, marker) in enumerate(lines):
        found = [(model.iteration, model.metric_or_nan(column.metric)) for model in models]
        defined = [(iteration, e) for iteration, e in found if all(math.isfinite(number) for number in e[:3])]
        if not defined:
            continue
        lowest = min(lowest, *(e.low for _, e in defined))
        beside = 0.06 * (at - (len(lines) - 1) / 2)  # two intervals of one iteration stay apart
        axes.errorbar(
            [iteration + beside for iteration, _ in defined],
            [e.value for _, e in defined],
            # A percentile interval may lie beside the figure.
            yerr=[[max(0.0, e.value - e.low) for _, e in defined], [max(0.0, e.high - e.value) for _, e in defined]],
            color=colour,
            ecolor=shade(colour, 0.45),
            elinewidth=1.1,
            marker=marker,
            markersize=6,
            label=name or None,
        )
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.set_xlabel("iteration; 0: zero-shot")
    axes.set_ylim(min(0.0, lowest - 0.05), 1.28 if len(lines) > 1 else 1.04)
    axes.set_yticks([tick for tick in (-1, -0.5, 0, 0.25, 0.5, 0.75, 1) if tick >= axes.get_ylim()[0]])
    axes.set_xlim(models[0].iteration - 0.4, models[-1].iteration + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    if len(lines) > 1 and axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", ncols=2, handlelength=1.3, borderaxespad=0.1, columnspacing=1.0)
