"""Drawn scenes: a sky, a sun, hills and one subject. Every scene is its own source, so no two splits share one."""

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from pipeline_lib.demo.photographs import Pixels

_OVERSAMPLE = 2
Colour = tuple[int, int, int]
KINDS = ("house", "tree", "boat", "balloon", "mountain")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
PLACES = ("left", "middle", "right")
_HUE_ENDS = (0.04, 0.11, 0.2, 0.45, 0.72, 0.94)
_PLACE_ENDS = (0.4, 0.6)


class Subject(NamedTuple):
    """What a scene shows: a kind of `KINDS`, its main colour of `COLOURS` and its place of `PLACES`."""

    kind: str
    colour: str
    place: str


def colour_name(colour: Colour) -> str:
    """The name, of `COLOURS`, of the hue of an RGB colour (0..255)."""
    hue = colorsys.rgb_to_hsv(*(part / 255 for part in colour))[0]
    return (*COLOURS, COLOURS[0])[int(np.searchsorted(_HUE_ENDS, hue))]


def _colour(
    rng: np.random.Generator, hue: tuple[float, float], saturation: float, value: tuple[float, float]
) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(float(rng.uniform(*hue)) % 1.0, saturation, float(rng.uniform(*value)))
    return int(red * 255), int(green * 255), int(blue * 255)


def _hills(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, height: float, fill: Colour) -> None:
    x = np.linspace(0, side, 24)
    waves = sum(np.sin(x / side * float(rng.uniform(2, 9)) + float(rng.uniform(0, 6))) for _ in range(2))
    y = side * (height + 0.035 * np.asarray(waves))
    draw.polygon([(0, side), *zip(x.tolist(), y.tolist(), strict=True), (side, side)], fill=fill)


def _subject(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> Subject:
    kind = int(rng.integers(5))
    size = side * float(rng.uniform(0.16, 0.3))
    x, y = side * float(rng.uniform(0.2, 0.8)), side * float(rng.uniform(0.5, 0.75))
    body = _colour(rng, (0, 1), 0.8, (0.55, 0.95))
    trim = _colour(rng, (0, 1), 0.85, (0.25, 0.6))
    if kind == 0:  # house
        draw.rectangle((x - size / 2, y - size / 2, x + size / 2, y + size / 2), fill=body)
        draw.polygon([(x - size * 0.65, y - size / 2), (x + size * 0.65, y - size / 2), (x, y - size)], fill=trim)
        draw.rectangle((x - size / 8, y, x + size / 8, y + size / 2), fill=trim)
    elif kind == 1:  # tree
        draw.rectangle((x - size / 10, y - size / 4, x + size / 10, y + size / 2), fill=(95, 60, 30))
        body = _colour(rng, (0.2, 0.4), 0.75, (0.4, 0.8))
        draw.ellipse((x - size / 2, y - size, x + size / 2, y), fill=body)
    elif kind == 2:  # boat
        hull = [
            (x - size * 0.7, y),
            (x + size * 0.7, y),
            (x + size * 0.45, y + size * 0.3),
            (x - size * 0.45, y + size * 0.3),
        ]
        draw.polygon(hull, fill=trim)
        draw.polygon([(x, y - size), (x, y - size * 0.08), (x + size * 0.6, y - size * 0.08)], fill=body)
    elif kind == 3:  # balloon
        draw.ellipse((x - size / 2, y - size * 1.3, x + size / 2, y - size * 0.2), fill=body)
        draw.line([(x, y - size * 0.2), (x, y + size * 0.2)], fill=trim, width=3)
        draw.rectangle((x - size / 7, y + size * 0.1, x + size / 7, y + size * 0.3), fill=trim)
    else:  # mountain
        draw.polygon([(x - size, y + size / 2), (x + size, y + size / 2), (x, y - size)], fill=body)
        draw.polygon(
            [(x - size / 4, y - size * 0.62), (x + size / 4, y - size * 0.62), (x, y - size)], fill=(245, 245, 250)
        )
    return Subject(KINDS[kind], colour_name(body), PLACES[int(np.searchsorted(_PLACE_ENDS, x / side))])


def scene(rng: np.random.Generator, side_px: int) -> tuple[Pixels, Subject]:
    """A drawn landscape, side_px x side_px x 3 in 0..1, of full contrast and strong colour, and what it shows."""
    side = side_px * _OVERSAMPLE
    top = np.array(_colour(rng, (0.5, 0.7), 0.75, (0.45, 0.9)), np.float32)
    bottom = np.array(_colour(rng, (0.0, 0.65), 0.35, (0.8, 1.0)), np.float32)
    ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    sky = np.broadcast_to(top + (bottom - top) * ramp, (side, side, 3))
    canvas = Image.fromarray(sky.astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    sun, x, y = (
        side * float(rng.uniform(0.05, 0.1)),
        side * float(rng.uniform(0.1, 0.9)),
        side * float(rng.uniform(0.1, 0.3)),
    )
    draw.ellipse((x - sun, y - sun, x + sun, y + sun), fill=_colour(rng, (0.1, 0.17), 0.6, (0.95, 1.0)))
    for height, value in ((0.5, (0.45, 0.7)), (0.66, (0.3, 0.55)), (0.82, (0.2, 0.4))):
        _hills(draw, rng, side, height + float(rng.uniform(-0.05, 0.05)), _colour(rng, (0.08, 0.5), 0.7, value))
    subject = _subject(draw, rng, side)
    small = canvas.resize((side_px, side_px), Image.Resampling.BOX)
    # Real surfaces are never flat: without a fine texture blur and compression would not show on the drawing.
    grain = rng.normal(0, 0.012, (side_px, side_px, 1)).astype(np.float32)
    return np.clip(np.asarray(small, np.float32) / 255 + grain, 0, 1), subject
