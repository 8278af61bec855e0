"""A survey of a table and its images with all problems that would stop a run: `whyscore check-data`.

A table has scores or none. What a method shows besides is in `pipeline_lib.checks.methods`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.config.base import ImageData, Split
from pipeline_lib.data.images import ImageFacts, refuse_too_many_unreadable, scan_images, unreadable
from pipeline_lib.data.leaks import too_many_leaks
from pipeline_lib.data.near_duplicates import NearDuplicate, joined, near_duplicates, no_look, too_many_near_duplicates
from pipeline_lib.data.sources import is_safe
from pipeline_lib.data.table import NO_LIMIT, ImageList, check_table, too_few_images
from pipeline_lib.errors import DataError


class Bar(NamedTuple):
    """A bar of a histogram; `high` belongs to the next bar, but for the last one."""

    low: float
    high: float
    images: int


class Duplicate(NamedTuple):
    """Images with the same content, each with its split and score."""

    images: tuple[str, ...]
    splits: tuple[str, ...]
    scores: tuple[float, ...]  # none in a table without scores


class Survey(NamedTuple):
    """The facts about a table.

    `rows` are as in `CheckedTable`; `facts` has one entry a row; `unreadable` is in the columns of `UNREADABLE_IMAGES`.
    """

    rows: pd.DataFrame
    facts: list[ImageFacts]
    unreadable: pa.Table
    problems: list[str]
    notes: list[str]
    near: list[NearDuplicate] = []  # noqa: RUF012 - nobody writes to it; by places in `rows`
    near_bits: int = 0
    more: list[list[str]] = []  # noqa: RUF012 - nobody writes to it; a method's own sections, as lines


def survey_data(data: ImageData, seed: int, least: Mapping[Split, int] = NO_LIMIT) -> Survey:
    """Check a table as `read_image_list` does, and open every image even if the table has problems.

    `least` says how many images a split must have. `problems` is empty exactly when a run would accept the table.
    Raises `DataError` when there is no table to look at, or the storage fails.
    """
    listed, problems, notes = check_table(data, seed, least)
    return survey_images(listed, data, least, problems, notes)


def survey_images(
    listed: ImageList, data: ImageData, least: Mapping[Split, int], problems: Sequence[str], notes: Sequence[str]
) -> Survey:
    """Open every image of a table that was read, with what was found in it so far."""
    (rows, source), problems = listed, list(problems)
    named = rows["image"].map(lambda image: bool(image.strip()))
    safe = named & rows["image"].map(is_safe)
    scanned = scan_images(ImageList(rows[safe], source), data.max_megapixels, with_looks=True)
    outside = ImageFacts("", 0, 0, "", "its name is not a path in the image folder")
    facts = [outside if name else outside._replace(problem="it has no name") for name in named]
    for place, fact in zip(np.flatnonzero(safe), scanned, strict=True):
        facts[place] = fact
    missing = unreadable(ImageList(rows, source), facts)
    if not named.any():  # it has no image column, which is said; each row again would say no more
        missing = missing.slice(0, 0)
    try:
        refuse_too_many_unreadable(missing, len(rows), data.max_unreadable_fraction)
    except DataError:  # the survey lists them anyway
        problems.append(
            f"{missing.num_rows} of {len(rows)} images are missing or unreadable, data.max_unreadable_fraction allows"
            f" {data.max_unreadable_fraction:g}"
        )
    readable = rows[np.array([not fact.problem for fact in facts], dtype=bool)]
    short = set(too_few_images(readable["split"], least)) - set(too_few_images(rows["split"], least))
    if short and (rows["split"] != "").any():
        problems.append(f"without the {missing.num_rows} unreadable images there are {', '.join(sorted(short))}")
    near = _near_duplicates(rows, facts, data.near_duplicate_bits)
    images, splits = list(rows["image"]), list(rows["split"])
    digests = [fact.sha256 for fact in facts]
    if problem := too_many_leaks(images, digests, splits, data.max_near_duplicate_fraction):
        problems.append(problem)
    if problem := too_many_near_duplicates(near, images, splits, data.max_near_duplicate_fraction):
        problems.append(problem)
    return Survey(rows, facts, missing, problems, list(notes), near, data.near_duplicate_bits)


def _near_duplicates(rows: pd.DataFrame, facts: list[ImageFacts], near_bits: int) -> list[NearDuplicate]:
    looks = joined([fact.look or no_look(1) for fact in facts])
    return near_duplicates(looks, list(rows["split"]), near_bits=near_bits)


def seen_in_training(trained: Survey, measured: Survey, split: str | None = None) -> list[str]:
    """Lines on the images to measure with (of a split, or all) that are training images as well, or look like one."""
    parts = [(trained, trained.rows["split"] == "train", "train")]
    parts.append((measured, measured.rows["split"] == split if split else measured.rows["split"].notna(), "test"))
    found = [
        (fact, side)
        for survey, wanted, side in parts
        for fact, is_wanted in zip(survey.facts, wanted, strict=True)
        if is_wanted and not fact.problem
    ]
    sides = [side for _, side in found]
    digests = {fact.sha256 for fact, side in found if side == "train"}
    copies = {at for at, (fact, side) in enumerate(found) if side == "test" and fact.sha256 in digests}
    near = near_duplicates(joined([fact.look or no_look(1) for fact, _ in found]), sides, near_bits=trained.near_bits)
    alike = {place for pair in near for place in pair[:2] if sides[place] == "test"}
    count = f"{len(copies)} of {sides.count('test')} images are training images too"
    return [f"seen in training  {count}, {len(alike - copies)} more look like one"]


def histogram(scores: NDArray[np.float64], most_bars: int = 16) -> list[Bar]:
    """Bars of one round width (1, 2 or 5 times a power of ten) over all scores, `most_bars` at most."""
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return []
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return [Bar(low, high, len(scores))]
    least = (high - low) / most_bars
    power = 10.0 ** np.floor(np.log10(least))
    widths = [factor * power for factor in (1, 2, 5, 10, 20)]
    for width in widths:
        first, last = int(np.floor(low / width)), int(np.ceil(high / width))
        if last - first <= most_bars:
            break
    # Places are found by division and rounded first, so that 0.3 is in the bar that begins at 0.3.
    places = np.floor(np.round(scores / width, 9)).astype(int) - first
    counts = np.bincount(np.minimum(places, last - first - 1), minlength=last - first)
    return [Bar((first + k) * width, (first + k + 1) * width, int(count)) for k, count in enumerate(counts)]


def duplicates(rows: pd.DataFrame, facts: list[ImageFacts]) -> list[Duplicate]:
    """Images of equal content, in the order of the table."""
    digests = pd.Series([fact.sha256 for fact in facts], index=rows.index)
    doubled = rows[digests.duplicated(keep=False) & (digests != "")]
    return [
        Duplicate(tuple(same["image"]), tuple(same["split"]), tuple(same.get("score", ())))
        for _, same in doubled.groupby(digests, sort=False)
    ]


def crosses_splits(duplicate: Duplicate) -> bool:
    """Whether the same image is in more than one split."""
    return len(set(duplicate.splits)) > 1
