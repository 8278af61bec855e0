"""Curves of a training as markdown while it trains: drawn by hand, because matplotlib takes the time of many steps."""

import base64
import math
from collections.abc import Mapping

from markupsafe import escape

from pipeline_lib.progress import Points, thinned
from pipeline_lib.report.style import FAINT, GREY, INK, SCORE

WIDTH_PX, HEIGHT_PX = 320, 180
COLUMNS = 2
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 62, 10, 26, 26

MOST_POINTS = 300
"""Points of a curve that are drawn; more would not be seen, and the picture is sent again and again."""


def curves_markdown(curves: Mapping[str, Points]) -> str:
    """All curves in one picture, and below it a table with the first, lowest, highest and last values.

    A point is a step and a value; values that are not finite are left out and counted. Empty without any value.
    """
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    shown = {name: points for name, points in finite.items() if points}
    left_out = {name: len(points) - len(finite[name]) for name, points in curves.items()}
    if not shown:
        return ""
    lines = ["| | first | lowest | highest | last |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, points in shown.items():
        values = [value for _, value in points]
        figures = (values[0], min(values), max(values), values[-1])
        lines.append(f"| {name} | " + " | ".join(f"{figure:.4g}" for figure in figures) + " |")
    notes = [f"{name}: {count} values that are no numbers are not drawn" for name, count in left_out.items() if count]
    return "\n\n".join([_picture(shown), "\n".join(lines), *notes])


def _picture(curves: Mapping[str, Points]) -> str:
    """One picture, because the UI puts each below the one before."""
    panels = [
        f'<g transform="translate({at % COLUMNS * WIDTH_PX} {at // COLUMNS * HEIGHT_PX})">{_panel(name, points)}</g>'
        for at, (name, points) in enumerate(curves.items())
    ]
    width, height = min(len(curves), COLUMNS) * WIDTH_PX, math.ceil(len(curves) / COLUMNS) * HEIGHT_PX
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>'
    )
    return f"![{', '.join(curves)}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _panel(name: str, points: Points) -> str:
    points = thinned(points, MOST_POINTS)
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    width, height = WIDTH_PX - LEFT_PX - RIGHT_PX, HEIGHT_PX - TOP_PX - BOTTOM_PX

    def across(step: float) -> float:
        return LEFT_PX + width * (step - steps[0]) / max(steps[-1] - steps[0], 1)

    def down(value: float) -> float:
        return TOP_PX + height * ((high - value) / (high - low) if high > low else 0.5)

    path = " ".join(f"{across(step):.1f},{down(value):.1f}" for step, value in points)
    text = f'font-family="sans-serif" font-size="11" fill="{GREY}"'
    ticks = "".join(
        f'<line x1="{LEFT_PX}" x2="{WIDTH_PX - RIGHT_PX}" y1="{down(value):.1f}" y2="{down(value):.1f}"'
        f' stroke="{FAINT}"/>'
        f'<text x="{LEFT_PX - 5}" y="{down(value) + 4:.1f}" text-anchor="end" {text}>{value:.3g}</text>'
        for value in dict.fromkeys((low, high))
    )
    return (
        f'{ticks}<text x="{LEFT_PX}" y="16" font-family="sans-serif" font-size="12" fill="{INK}">{escape(name)}</text>'
        f'<text x="{LEFT_PX}" y="{HEIGHT_PX - 8}" {text}>step {steps[0]}</text>'
        f'<text x="{WIDTH_PX - RIGHT_PX}" y="{HEIGHT_PX - 8}" text-anchor="end" {text}>{steps[-1]}</text>'
        f'<polyline points="{path}" fill="none" stroke="{SCORE}" stroke-width="1.5"/>'
        f'<circle cx="{across(steps[-1]):.1f}" cy="{down(values[-1]):.1f}" r="2.5" fill="{SCORE}"/>'
    )
