"""A comparison of models as a table for the terminal and as one HTML page; the experiments end with one."""

import math
import textwrap
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline_lib.config.base import Split
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import Column, bounds_text, estimate_text, value_text
from pipeline_lib.report.page import Grid, Paragraph, Section, kind_of, render_template
from pipeline_lib.report.style import BASE, GREY, INK, SCORE, data_uri, draw_svg, shade
from pipeline_lib.report.text_table import text_table

WIDTH_PX, MAX_PANEL_PX, LETTER_PX = 1090, 480, 6.9
ROW_PX, FRAME_PX = 27, 62
"""The drawing: panels side by side, the names of the rows beside the first; heights of a row and of its frame."""


class Row(NamedTuple):
    """One model: its name, a remark, and its figures by `(split, metric)`."""

    name: str
    figures: dict[tuple[str, str], Estimate]
    mark: str = ""  # a short remark, e.g. "chosen"
    leads: bool = False  # set in bold, and its interval is drawn across all rows
    apart: bool = False  # for reference: not one of the compared models
    collapsed: bool = False
    colour: str = ""  # of its mark and interval; else by what it is

    def figure(self, column: Column, split: Split) -> Estimate:
        """A figure with its interval; NaN where it was not measured, so that a table can show a dash."""
        return self.figures.get((split, column.metric), Estimate(math.nan, math.nan, math.nan, 0))


class Comparison(NamedTuple):
    """A page and a table: models x figures on one split."""

    kind: str  # of experiment, e.g. "ablation"
    title: str
    lead: tuple[str, ...]
    heading: str
    split: Split
    columns: tuple[Column, ...]
    drawn: tuple[Column, ...]  # figures that get a panel in the drawing
    rows: list[Row]
    notes: tuple[str, ...]
    outcome: str = ""  # the result in one sentence
    recipe_lines: str = ""  # to paste
    paper: tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]] | None = None  # caption, headings, rows
    sections: tuple[Section, ...] = ()  # between the figures and the notes
    measured_on: str = ""  # what the figures are of, where that is not one split of one data set


def comparison_text(comparison: Comparison) -> str:
    """A row a model with `value [low high]`, and notes below."""
    lines = [["", *(column.heading for column in comparison.columns), ""]]
    for row in comparison.rows:
        figures = [estimate_text(column, row.figure(column, comparison.split)) for column in comparison.columns]
        lines.append([row.name + (" *" if row.collapsed else ""), *figures, row.mark])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    table.insert(1, "-" * max(len(line) for line in table))
    notes = [comparison.outcome, *comparison.notes] if comparison.outcome else comparison.notes
    below = [textwrap.fill(note, 120) for note in notes]
    for section in comparison.sections:
        if said := _section_lines(section):
            table += ["", section.heading, "", *said]
    if comparison.recipe_lines:
        below += ["", "Recipe lines:", comparison.recipe_lines.rstrip()]
    return "\n".join([f"{comparison.heading} ({comparison.title})", "", *table, "", *below]) + "\n"


def _section_lines(section: Section) -> list[str]:
    """The texts and tables of a section; a terminal shows no drawings."""
    said = []
    for part in section.parts:
        if isinstance(part, Paragraph):
            said.append(textwrap.fill(part.text, 120))
        elif isinstance(part, Grid):
            said.append(textwrap.fill(part.caption, 120) + "\n\n" + text_table(part.headings, part.rows))
    return "\n\n".join(said).splitlines()


def render_comparison(comparison: Comparison) -> str:
    """The page as HTML that needs no other file; the same comparison gives the same bytes."""
    split = comparison.split
    rows = [
        {
            "row": row,
            "cells": [
                {
                    "value": value_text(column, row.figure(column, split)).replace("-", "−"),
                    "bounds": bounds_text(column, row.figure(column, split)).replace("-", "−"),
                }
                for column in comparison.columns
            ],
        }
        for row in comparison.rows
    ]
    panels = _panels(comparison)
    return render_template(
        "comparison.html.j2", comparison=comparison, rows=rows, panels=panels, kind=kind_of, data_uri=data_uri
    )


def _panels(comparison: Comparison) -> list[tuple[int, Markup]]:
    """The width of each panel and its drawing; all are scaled alike, so that a row is one row across them."""
    if not comparison.drawn:
        return []
    names = round(LETTER_PX * max(len(row.name) for row in comparison.rows))
    plain = min(MAX_PANEL_PX, (WIDTH_PX - names) // len(comparison.drawn))
    panels: list[tuple[int, Markup]] = []
    for column in comparison.drawn:
        width = plain + (0 if panels else names)
        drawing = draw_svg(
            lambda axes, column=column, named=not panels: _draw(axes, comparison, column, named),  # type: ignore[misc]
            width,
            FRAME_PX + ROW_PX * len(comparison.rows),
            name=f"{comparison.kind}-{column.metric}",
            description=f"{column.heading} of every model with its interval; the table has the same figures.",
        )
        panels.append((width, drawing))
    return panels


def _draw(axes: Axes, comparison: Comparison, column: Column, named: bool) -> None:
    axes.set_title(column.heading)
    axes.set_ylim(len(comparison.rows) - 0.4, -0.6)
    axes.set_yticks(range(len(comparison.rows)), [row.name if named else "" for row in comparison.rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    for at, (row, name) in enumerate(zip(comparison.rows, axes.get_yticklabels(), strict=True)):
        figure = row.figure(column, comparison.split)
        colour = row.colour or (SCORE if row.leads else BASE if row.apart else INK)
        name.set_color(GREY if row.apart else INK)
        name.set_fontweight("bold" if row.leads else "normal")
        if not math.isfinite(figure.value):
            continue
        if row.leads and math.isfinite(figure.low):
            axes.axvspan(figure.low, figure.high, color=shade(SCORE, 0.1), linewidth=0, zorder=0)
        axes.plot([figure.low, figure.high], [at, at], color=shade(colour, 0.55), linewidth=2.2, zorder=2)
        hollow = row.apart or row.collapsed
        axes.plot(
            figure.value,
            at,
            marker="D" if row.leads else "s" if row.apart else "o",
            markersize=7,
            color=colour,
            markerfacecolor="white" if hollow else colour,
            zorder=3,
        )
