"""A run beside its negative control, for the control's own page and for the run's report."""

import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
from matplotlib.axes import Axes

from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.report.control_figures import (
    Outcome,
    Quantity,
    estimates_of,
    metrics_of,
    outcome,
)
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import (
    CONS,
    CONS_CORRECTED,
    Column,
    estimate_text,
    percent,
    score_column,
    value_text,
)
from pipeline_lib.report.page import Drawing, Grid, Page, Paragraph, Section
from pipeline_lib.report.style import BASE, CONSISTENCY, SCORE, draw_svg, shade
from pipeline_lib.report.text_table import text_table

HEADINGS = ("On test", "Zero-shot", "Final", "Control", "Final less zero-shot", "Final less control", "Gain")

RULE = (
    "A gain counts only beyond its control: both paired intervals, final less zero-shot and final less control, must be"
    " above 0."
)

WIDTH_PX, ROW_PX, FRAME_PX = 760, 54, 60

_COLUMNS: tuple[Quantity, ...] = ("zero-shot", "final", "control", "gain", "beyond")
_MARKS: dict[Quantity, tuple[str, str, str]] = {
    "zero-shot": ("s", BASE, "zero-shot"),
    "final": ("o", SCORE, "final model"),
    "control": ("D", CONSISTENCY, "final model of the control"),
}


class ControlSection(NamedTuple):
    """The control as the run's report shows it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    sentences: Sequence[str]  # the outcome by the rule, the rule, and what the control is


def control_section(recipe: SelfImproveRecipe, figures: pa.Table | None) -> ControlSection | None:
    """The table and the sentences; None without a control."""
    if figures is None:
        return None
    return ControlSection(HEADINGS, _rows(figures), [_conclusion(figures), RULE, _what(recipe)])


def control_lines(section: ControlSection) -> list[str]:
    """The table for a terminal."""
    return text_table(["Beside its control", *section.headings[1:]], section.rows).splitlines()


def control_text(recipe: SelfImproveRecipe, figures: pa.Table) -> str:
    """The comparison for a terminal."""
    notes = [_conclusion(figures), RULE, _what(recipe), _intervals(recipe)]
    below = "\n".join(textwrap.fill(note, 120) for note in notes)
    return f"{recipe.name} beside its control\n\n{text_table(HEADINGS, _rows(figures))}\n\n{below}\n"


def control_page(recipe: SelfImproveRecipe, figures: pa.Table) -> Page:
    """The comparison as a page."""
    drawn = [metric for metric in metrics_of(figures) if metric.startswith("srcc_")]
    svg = draw_svg(
        lambda axes: _draw(axes, figures, drawn),
        WIDTH_PX,
        FRAME_PX + ROW_PX * len(drawn),
        name="control",
        description="SRCC of zero-shot, final model and control by each reading; the table has the same figures.",
    )
    caption = (
        "SRCC on test by each reading. Square: zero-shot; circle: final model of the run; diamond: final model of the"
        " control. A reading by which the diamond lies right of the square finds a gain where there was nothing to"
        " learn."
    )
    sections = [
        Section(
            "Does the gain go beyond the control?",
            [
                Paragraph(_conclusion(figures)),
                Paragraph(RULE),
                Grid("Figures with their intervals in brackets.", HEADINGS, _with_minus_signs(_rows(figures))),
                Paragraph(_intervals(recipe)),
            ],
        ),
        Section("Readings", [Drawing(svg, caption)]),
        Section(
            "What the control is",
            [
                Paragraph(_what(recipe)),
                Paragraph(
                    "Both start from the same base and are evaluated on the same images with their true scores, by the"
                    " same round-trip judge and the same bins. Bins are the same because the training scores are, in"
                    " another order. Validation scores are not permuted either: reference values that are fitted on"
                    " validation see the true scores in both."
                ),
            ],
        ),
    ]
    lead = f"A run of {recipe.iterations} iteration(s), and the same run on permuted training scores."
    return Page(f"{recipe.name} beside its control", "negative control", lead, sections)


def heading(metric: str) -> str:
    """`SRCC unfitted` for `srcc_unfitted`, `Cons` for `cons`."""
    return _column(metric).heading


def _column(metric: str) -> Column:
    name, _, reading = metric.partition("_")
    known = {column.metric: column for column in (CONS, CONS_CORRECTED)}
    return known.get(metric) or score_column(name, reading)


def _rows(figures: pa.Table) -> list[list[str]]:
    rows = []
    for metric in metrics_of(figures):
        estimates, column = estimates_of(figures, metric), _column(metric)
        cells = [estimate_text(column, estimates[quantity]) for quantity in _COLUMNS]
        rows.append([column.heading, *cells, outcome(estimates)])
    return rows


def _with_minus_signs(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[re.sub(r"(?<![\w.])-(?=[.\d])", "−", cell) for cell in row] for row in rows]


def _conclusion(figures: pa.Table) -> str:
    found: dict[Outcome, list[str]] = {}
    raised: list[str] = []
    for metric in metrics_of(figures):
        estimates = estimates_of(figures, metric)
        found.setdefault(outcome(estimates), []).append(heading(metric))
        if change(estimates["control_gain"]) == "raised":
            before, after = (value_text(_column(metric), estimates[name]) for name in ("zero-shot", "control"))
            raised.append(f"{heading(metric)} ({before} to {after})")
    sentences = [
        f"{text}: {', '.join(found[key])}."
        for key, text in (
            ("counts", "The gain goes beyond its control by"),
            ("does not count", "There is a gain that does not go beyond its control, and does not count, by"),
            ("no gain shown", "No gain is shown by"),
            ("not compared", "No paired difference is defined for"),
        )
        if key in found
    ]
    if raised:
        sentences.append(f"The control, which had nothing to learn, raised {', '.join(raised)}.")
    return " ".join(sentences)


def _what(recipe: SelfImproveRecipe) -> str:
    return f"In the control {recipe.control}; everything else is as in the run."


def _intervals(recipe: SelfImproveRecipe) -> str:
    config = recipe.evaluation
    return (
        f"[low high]: {percent(config.confidence)} intervals. Those of the differences are paired bootstraps over"
        f" groups of test images, {config.bootstrap_samples} resamples."
    )


def _draw(axes: Axes, figures: pa.Table, metrics: Sequence[str]) -> None:
    axes.set_ylim(len(metrics) - 0.4, -0.6)
    axes.set_yticks(range(len(metrics)), [heading(metric) for metric in metrics])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    for at, metric in enumerate(metrics):
        estimates = estimates_of(figures, metric)
        for offset, (quantity, (marker, colour, label)) in zip((-0.22, 0.0, 0.22), _MARKS.items(), strict=True):
            found: Estimate = estimates[quantity]
            axes.plot([found.low, found.high], [at + offset] * 2, color=shade(colour, 0.55), linewidth=2.2)
            axes.plot(
                found.value, at + offset, marker, markersize=7, color=colour, label=label if at == 0 else "_nolegend_"
            )
    if metrics:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
