"""Predictions as one HTML page with the images in it, to sort and to look through."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline_lib.errors import DataError
from pipeline_lib.report.page import html_environment
from pipeline_lib.report.style import data_uri, stylesheet
from pipeline_lib.use.new_images import opener
from pipeline_lib.use.output import Predictions, uncertainty_text
from pipeline_lib.use.views import decimals

_TEMPLATES = Path(__file__).parent / "templates"

_SIDES_PX = ((60, 1024), (300, 720), (10**9, 448))
"""The longest side of an image by how many there are, so that the page stays below some tens of megabytes."""


class Card(NamedTuple):
    """One image of the page. Positions are 0..1 along the range of all scores and intervals."""

    number: int
    image: str
    data_uri: str
    width_px: int
    height_px: int
    score: float
    score_text: str
    uncertainty: float | None
    uncertainty_text: str
    at: float
    low_at: float | None
    high_at: float | None
    distribution: list[float] | None
    stated: float | None
    explanation: str | None  # None: the answer has not the form of one
    text: str
    own: list[tuple[str, str]]  # the user's columns


class Unscored(NamedTuple):
    """An image without a score."""

    image: str
    problem: str


def gallery_page(predictions: Predictions) -> str:
    """The page as HTML; every text is escaped, and nothing is loaded from elsewhere."""
    rows, view = predictions.rows.to_pylist(), predictions.view
    good = [at for at, row in enumerate(rows) if row["problem"] is None and row[view.score] is not None]
    side = next(side for most, side in _SIDES_PX if len(good) <= most)
    ends = [
        rows[at][name]
        for at in good
        for name in (view.score, view.low, view.high)
        if name and rows[at][name] is not None
    ]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    places = decimals(predictions.rows, view)
    cards, unscored = [], []
    open_image, scored = opener(side), set(good)
    paths, digests = (predictions.images[name].to_pylist() for name in ("path", "image_sha256"))
    for at, row in enumerate(rows):
        if at not in scored:
            unscored.append(Unscored(row["image"], row["problem"] or "the model gave no score"))
            continue
        try:
            image = open_image(paths[at], digests[at])
        except DataError as error:
            unscored.append(Unscored(row["image"], f"scored, but its file cannot be shown: {error}"))
            continue
        cards.append(_card(at, row, predictions, image, (low, high), places))
    template = html_environment(_TEMPLATES).get_template("gallery.html.j2")
    return template.render(
        css=stylesheet(), view=view, model=predictions.model, cards=cards, unscored=unscored,
        low=f"{low:.{places}f}", high=f"{high:.{places}f}", total=len(rows),
    )  # fmt: skip


def _card(
    at: int, row: dict[str, Any], predictions: Predictions, image: Any, ends: tuple[float, float], places: int
) -> Card:
    view = predictions.view

    def along(name: str | None) -> float | None:
        value = row[name] if name else None
        return None if value is None else (value - ends[0]) / (ends[1] - ends[0] or 1)

    low, high = (row[name] if name else None for name in (view.low, view.high))
    uncertainty = high - low if low is not None and high is not None else row[view.spread] if view.spread else None
    own = predictions.own.slice(at, 1).to_pylist()
    return Card(
        number=at,
        image=row["image"],
        data_uri=data_uri(image),
        width_px=image.width,
        height_px=image.height,
        score=row[view.score],
        score_text=f"{row[view.score]:.{places}f}",
        uncertainty=uncertainty,
        uncertainty_text=uncertainty_text(row, view, places),
        at=along(view.score) or 0.0,
        low_at=along(view.low),
        high_at=along(view.high),
        distribution=row[view.distribution] if view.distribution else None,
        stated=row[view.stated],
        explanation=row[view.explanation] if view.explanation else None,
        text=row[view.text] or "",
        own=[(name, str(value)) for name, value in (own[0] if own else {}).items() if value is not None],
    )
