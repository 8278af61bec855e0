"""The test images that the best model rates best and worst, large, with what it says and what people say."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.lineage import on_split
from pipeline_lib.methods.self_improve.report.plain_verdict import best_model
from pipeline_lib.report.style import data_uri

SHOWN = 3
"""Images of each kind."""

APART = 2
"""Images on which model and people are furthest apart."""

MAX_SIDE_PX = 1280
"""Images are in their own size up to this longer side, so that the page stays a few megabytes."""

SMALL_PX = 240
"""Images up to this longer side are shown twice as large, because nobody sees anything in them otherwise."""

NARROW_PX = 380
"""Images up to this width on the page stand side by side."""


class Rated(NamedTuple):
    """A test image with its score by the model and by people, on the data set's own scale."""

    image: str
    data_uri: str
    width_px: int
    height_px: int
    shown_as: str  # how its size on the page differs from that in its file; empty: it does not
    predicted: float
    low: float | None  # interval of the prediction; None: too few validation images
    high: float | None
    score: float  # people's
    bin: int  # people's score as a bin
    stated: int | None  # a bin; None: the answer did not parse
    text: str
    marks: dict[str, float]  # predicted, low, high, score: 0..1 along the scale


class RatedGroup(NamedTuple):
    """Images under a heading."""

    heading: str
    note: str
    images: list[Rated]

    @property
    def side_by_side(self) -> bool:
        """Whether all images are narrow."""
        return all(image.width_px <= NARROW_PX for image in self.images)


def rated_images(results: RunResults, open_full_size: Callable[[str, str], Image]) -> list[RatedGroup]:
    """Best, worst, and those on which model and people are furthest apart; an image is in one group only.

    Ties go to the first name. `open_full_size(image, sha256)` gives a test image as its file has it.
    """
    best, column = best_model(results), f"predicted_{results.reading}"
    rows = sorted(on_split(best.predictions, "test").to_pylist(), key=lambda row: str(row["image"]))
    count = min(SHOWN, len(rows) // 2)
    by_prediction = sorted(rows, key=lambda row: -row[column])
    top, bottom = by_prediction[:count], by_prediction[len(rows) - count :][::-1]
    taken = {row["image"] for row in (*top, *bottom)}
    others = [row for row in rows if row["image"] not in taken]
    apart = sorted(others, key=lambda row: -abs(row[column] - row["score"]))[:APART]
    scores = results.images["score"].to_numpy()
    scale = float(np.min(scores)), float(np.max(scores))
    groups = (
        ("Rated best", f"The test images to which {best.name} gives the highest scores, the highest first.", top),
        ("Rated worst", "Those with the lowest scores, the lowest first.", bottom),
        ("Where model and people differ most", "Of the other test images, those with the largest error.", apart),
    )
    return [
        RatedGroup(heading, note, [_rated(row, column, scale, open_full_size) for row in chosen])
        for heading, note, chosen in groups
        if chosen
    ]


def _rated(
    row: dict[str, Any], column: str, scale: tuple[float, float], open_full_size: Callable[[str, str], Image]
) -> Rated:
    opened = open_full_size(row["image"], row["image_sha256"])
    side_px, times, shown_as = max(opened.size), 1, ""
    if side_px > MAX_SIDE_PX:
        opened.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
        shown_as = f"reduced from {side_px} px"
    elif side_px <= SMALL_PX:
        times, shown_as = 2, f"{side_px} px, shown twice as large"
    low, high = row.get("interval_low"), row.get("interval_high")
    places = {"predicted": row[column], "score": row["score"], "low": low, "high": high}
    return Rated(
        image=row["image"],
        data_uri=data_uri(opened),
        width_px=times * opened.size[0],
        height_px=times * opened.size[1],
        shown_as=shown_as,
        predicted=row[column],
        low=low,
        high=high,
        score=row["score"],
        bin=row["bin"],
        stated=row["stated_score"],
        text=row["explanation"] if row["parsed"] else row["text"],
        marks={name: _along(value, *scale) for name, value in places.items() if value is not None},
    )


def _along(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5
