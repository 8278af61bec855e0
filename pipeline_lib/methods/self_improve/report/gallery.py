"""Images with the answers of each model, chosen by a rule that does not depend on the explanations."""

from collections.abc import Callable
from typing import Any, NamedTuple

from PIL.Image import Image

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.lineage import final, main_line, on_split
from pipeline_lib.methods.self_improve.report.score_figures import shown_range
from pipeline_lib.report.style import data_uri
from pipeline_lib.sampling import draw

SPREAD = 10
"""One image is drawn from each tenth of the test images by true score."""

MAX_SIDE_PX = 520


class Opinion(NamedTuple):
    """One model's answer about one image."""

    model: str
    predicted: float  # fitted, on the data set's own scale
    parsed: bool
    stated_score: int | None
    text: str  # the explanation, or the raw text where it did not parse
    status: str | None  # of the leading judge's verdict, `VERDICTS`; None: not among the judged rows
    grade: int | None  # consistency 0..4 by the leading judge
    second_grade: int | None  # by the round-trip judge where a judge model leads
    recovered_score: float | None  # by the round-trip judge
    at: float  # 0..1 along the shown range of scores


class Exhibit(NamedTuple):
    """A test image, why it is shown, and the opinions of zero-shot, iteration 1 and the merged models."""

    image: str
    chosen_as: list[str]
    data_uri: str
    width_px: int
    height_px: int
    score: float
    bin: int
    at: float
    opinions: list[Opinion]


def choose_rows(results: RunResults) -> list[tuple[str, list[str]]]:
    """Images with the reasons for showing them, by descending true score.

    From each tenth of the test images, ordered by true score, one is drawn by its name alone; then come those with the
    smallest and the largest error of the final model's prediction. Ties go to the first name.
    """
    rows = sorted(
        on_split(final(results).predictions, "test").to_pylist(), key=lambda row: (row["score"], row["image"])
    )
    groups = min(SPREAD, len(rows))
    reasons: dict[str, list[str]] = {}
    for group in reversed(range(groups)):
        part = rows[group * len(rows) // groups : (group + 1) * len(rows) // groups]
        chosen = min(part, key=lambda row: draw("report:gallery", row["image"]))
        reasons.setdefault(chosen["image"], []).append(f"tenth {group + 1} of {groups} by true score")
    by_error = sorted(rows, key=lambda row: (abs(row[f"predicted_{results.reading}"] - row["score"]), row["image"]))
    for label, extreme in (("best predicted", by_error[:1]), ("worst predicted", by_error[-1:])):
        for row in extreme:
            reasons.setdefault(row["image"], []).append(f"{label} by {final(results).name}")
    scores = {row["image"]: row["score"] for row in rows}
    return sorted(reasons.items(), key=lambda item: (-scores[item[0]], item[0]))


def exhibits(results: RunResults, open_image: Callable[[str, str], Image]) -> list[Exhibit]:
    """The gallery: images as data URIs with every opinion on them."""
    chosen = choose_rows(results)
    names = {image for image, _ in chosen}
    predictions = {model.name: _by_image(model.predictions, names) for model in main_line(results)}
    verdicts = {
        model.name: tuple(_by_image(judged.verdicts, names) for judged in (model.judged, model.second) if judged)
        for model in main_line(results)
    }
    low, high = shown_range(on_split(final(results).predictions, "test")["score"].to_numpy())
    shown = []
    for image, reasons in chosen:
        truth = predictions[final(results).name][image]
        opened = open_image(image, truth["image_sha256"])
        opened.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
        opinions = [
            _opinion(
                name,
                rows[image],
                rows[image][f"predicted_{results.reading}"],
                [found.get(image, {}) for found in verdicts[name]],
                low,
                high,
            )
            for name, rows in predictions.items()
            if image in rows
        ]
        at = _along(truth["score"], low, high)
        size = opened.size
        shown.append(Exhibit(image, reasons, data_uri(opened), *size, truth["score"], truth["bin"], at, opinions))
    return shown


def _by_image(table: Any, names: set[str]) -> dict[str, dict[str, Any]]:
    return {row["image"]: row for row in on_split(table, "test").to_pylist() if row["image"] in names}


def _along(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _opinion(
    model: str, row: dict[str, Any], predicted: float, verdicts: list[dict[str, Any]], low: float, high: float
) -> Opinion:
    lead, round_trip = verdicts[0], verdicts[-1]
    return Opinion(
        model=model,
        predicted=predicted,
        parsed=row["parsed"],
        stated_score=row["stated_score"],
        text=row["explanation"] if row["parsed"] else row["text"],
        status=lead.get("status"),
        grade=lead.get("consistency"),
        second_grade=round_trip.get("consistency") if len(verdicts) > 1 else None,
        recovered_score=round_trip.get("recovered_score"),
        at=_along(predicted, low, high),
    )
