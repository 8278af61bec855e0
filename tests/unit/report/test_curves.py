"""Curves of a training while it trains, as markdown."""

import base64
import re
from xml.etree import ElementTree

import pytest

from pipeline_lib.progress import thinned
from pipeline_lib.report.curves import HEIGHT_PX, MOST_POINTS, WIDTH_PX, curves_markdown

SVG = "{http://www.w3.org/2000/svg}"


def drawn(markdown: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each curve, in its own panel, and whether the panel is inside the picture."""
    ((names, data),) = re.findall(r"!\[(.+?)\]\(data:image/svg\+xml;base64,(.+?)\)", markdown)
    picture = ElementTree.fromstring(base64.b64decode(data))
    found = {}
    for panel in picture.findall(f"{SVG}g"):
        x, y = map(int, re.findall(r"\d+", panel.attrib["transform"]))
        assert x + WIDTH_PX <= int(picture.attrib["width"]) and y + HEIGHT_PX <= int(picture.attrib["height"])
        name, line = panel.findtext(f"{SVG}text[@font-size='12']"), panel.find(f"{SVG}polyline")
        assert name and line is not None
        pairs = [point.split(",") for point in line.attrib["points"].split()]
        found[name] = [(float(x), float(y)) for x, y in pairs]
    assert ", ".join(found) == names
    return found


def test_each_curve_is_a_panel_and_a_row() -> None:
    said = curves_markdown({"loss": [(1, 2.0), (2, 1.0), (3, 1.5)], "a & b": [(1, 0.0), (3, 0.0)], "c": [(1, 4.0)]})
    assert "| loss | 2 | 1 | 2 | 1.5 |" in said
    panels = drawn(said)
    xs, ys = zip(*panels["loss"], strict=True)
    assert xs[0] < xs[1] < xs[2] <= WIDTH_PX and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert 0 < ys[0] < ys[2] < ys[1] < HEIGHT_PX  # down is larger
    assert len({y for _, y in panels["a & b"]}) == 1 and len(panels) == 3


def test_values_that_are_no_numbers_are_counted_and_not_drawn() -> None:
    said = curves_markdown({"loss": [(1, 2.0), (2, float("nan")), (3, float("inf")), (4, 1.0)], "kl": []})
    assert "| loss | 2 | 1 | 2 | 1 |" in said and list(drawn(said)) == ["loss"]
    assert said.endswith("loss: 2 values that are no numbers are not drawn")
    assert curves_markdown({"loss": [(1, float("nan"))]}) == ""


def test_a_long_curve_is_thinned_to_its_last_point() -> None:
    points = [(step, float(step)) for step in range(1, 10_001)]
    assert len(thinned(points, MOST_POINTS)) <= MOST_POINTS and thinned(points, 7)[-1] == points[-1]
    assert thinned(points[:5], 7) == points[:5]
    assert len(curves_markdown({"loss": points})) < 12_000
