"""Curves of a training while it trains, as markdown."""

import base64
import re
from xml.etree import ElementTree

import pytest

from pipeline_lib.progress import thinned
from pipeline_lib.report.curves import HEIGHT_PX, MOST_POINTS, WIDTH_PX, curves_markdown

SVG = "{http://www.w3.org/2000/svg}"


def drawn(markdown: str) -> dict[str, list[tuple[float, float]]]:
    found = {}
    for name, data in re.findall(r"!\[(.+?)\]\(data:image/svg\+xml;base64,(.+?)\)", markdown):
        line = ElementTree.fromstring(base64.b64decode(data)).find(f"{SVG}polyline")
        assert line is not None
        found[name] = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    return found


def test_each_curve_is_a_picture_and_a_row() -> None:
    said = curves_markdown({"loss": [(1, 2.0), (2, 1.0), (3, 1.5)], "a & b": [(1, 0.0), (3, 0.0)]}, "training: 3/9")
    assert said.startswith("training: 3/9\n") and "| loss | 2 | 1 | 2 | 1.5 | 0 |" in said
    pictures = drawn(said)
    xs, ys = zip(*pictures["loss"], strict=True)
    assert xs[0] < xs[1] < xs[2] <= WIDTH_PX and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert 0 < ys[0] < ys[2] < ys[1] < HEIGHT_PX  # down is larger
    assert len({y for _, y in pictures["a & b"]}) == 1


def test_values_that_are_no_numbers_are_counted_and_not_drawn() -> None:
    said = curves_markdown({"loss": [(1, 2.0), (2, float("nan")), (3, float("inf")), (4, 1.0)], "kl": []}, "x")
    assert "| loss | 2 | 1 | 2 | 1 | 2 |" in said and list(drawn(said)) == ["loss"]
    assert drawn(curves_markdown({"loss": [(1, float("nan"))]}, "x")) == {}


def test_a_long_curve_is_thinned_to_its_last_point() -> None:
    points = [(step, float(step)) for step in range(1, 10_001)]
    assert len(thinned(points, MOST_POINTS)) <= MOST_POINTS and thinned(points, 7)[-1] == points[-1]
    assert thinned(points[:5], 7) == points[:5]
    assert len(curves_markdown({"loss": points}, "x")) < 12_000
