"""Read a table of images, with or without scores, and find all its problems at once."""

import hashlib
import logging
import posixpath
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline_lib.config.base import SPLITS, Data, ImageData, Split
from pipeline_lib.data import files, user_table
from pipeline_lib.data.digests import image_digests
from pipeline_lib.data.frames import with_decimal_points
from pipeline_lib.data.known import KNOWN_DATASETS, as_on_disk
from pipeline_lib.data.sources import ImageSource, folder_source, is_safe
from pipeline_lib.data.spelling import as_files_are_written, plain
from pipeline_lib.data.splits import LEFT_OUT, draw_splits, split_by_lists, split_name
from pipeline_lib.errors import DataError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.tables.images import VOTES_COLUMN

log = logging.getLogger("whyscore.data")

NO_LIMIT: Mapping[Split, int] = MappingProxyType({})

_DEEP_ENDINGS, _DEEP_VERSION = {".tif", ".tiff", ".pgm", ".pnm", ".pfm"}, "pixels 2"
"""Files that may hold pixels of more than 8 bits. Change the version when `modes` gives such pixels other values."""

_SHOWN = 3
_RESERVED = {"image", "image_sha256", "width_px", "height_px", "score", "bin", "split", "group"}


class ImageList(NamedTuple):
    """A checked table: columns image, score, split, group and then all others; and where its images come from.

    There is a score where the recipe's data section names one (`Data`); to others a column `score` is one of theirs.
    """

    rows: pd.DataFrame
    source: ImageSource


class CheckedTable(NamedTuple):
    """The readable part of a table, usable or not.

    The rows have the columns of an `ImageList`, as far as they are known: an unusable score is NaN, an unusable image
    name or split is as it was written. Without problems they are an `ImageList`'s.
    """

    images: ImageList
    problems: list[str]
    notes: list[str]


def read_image_list(data: ImageData, seed: int, least: Mapping[Split, int] = NO_LIMIT) -> ImageList:
    """Read and check the table or the known data set that a recipe names; images are looked for, not opened.

    `least` says how many images a split must have. Raises `DataError` listing every problem: unreadable file, missing
    columns, scores that are not finite numbers, duplicate or unsafe paths, unknown splits, a group in two splits, split
    lists that do not fit the table, too few images, constant training scores.
    """
    checked = check_table(data, seed, least)
    if checked.problems:
        raise DataError("\n  ".join([f"{data.table}: {len(checked.problems)} problem(s)", *checked.problems]))
    for note in checked.notes:
        log.info("%s: %s", data.table, note)
    return checked.images


def check_table(data: ImageData, seed: int, least: Mapping[Split, int] = NO_LIMIT) -> CheckedTable:
    """All that `read_image_list` finds, problems included; raises `DataError` only when there is no table."""
    frame, wanted, source, problems, notes, lines = _read(data)
    if frame.empty:
        problems.append("there is no image: no rows are below the header")
    absent = {name: column for name, column in wanted.items() if column not in frame.columns}
    if absent:
        problems.append(_absent_columns(absent, frame))
    others = [column for column in frame.columns if column not in wanted.values()]
    rows = pd.DataFrame({name: frame[column] for name, column in wanted.items() if name not in absent})
    rows = rows.reindex(frame.index)
    if "image" in rows:
        rows["image"] = _text(rows["image"])
        if data.dataset == "table":
            rows["image"], note = as_files_are_written(rows["image"], source)
            notes += [note] if note else []
        problems += _check_images(rows, lines)
    rows["image"] = rows.get("image", "")
    scored = "score" in wanted
    if scored:
        problems += _check_scores(rows, notes) if "score" in rows else []
        rows["score"] = rows.get("score", np.nan)
    named_groups = "group" in rows
    rows["group"] = _text(rows["group"]) if named_groups else rows["image"]
    grouped = rows["group"].str.strip() != ""
    if named_groups:
        _note(problems, "group(s) are empty", _lines(lines, rows.index[~grouped]))
    kept = pd.Series(True, index=rows.index)
    if _has_lists(data):
        listed = split_by_lists(rows["image"], rows["group"], data, seed)
        rows["split"], kept = listed.splits, listed.splits != LEFT_OUT
        problems += listed.problems
        notes += listed.notes
    elif "split" in rows:
        rows["split"] = rows["split"].map(split_name)
        _note(
            problems,
            f"split(s) are not one of {', '.join(SPLITS)}",
            rows.loc[~rows["split"].isin(SPLITS), "split"].unique(),
        )
    elif "split" in absent:
        rows["split"] = ""
    else:
        rows["split"] = draw_splits(rows["group"], data.val_fraction, data.test_fraction, seed)
        notes.append(
            f"splits are drawn by group: data.val_fraction {data.val_fraction:g} for validation,"
            f" data.test_fraction {data.test_fraction:g} for testing, the rest for training"
        )
    rows = rows[kept]
    if "split" not in absent:
        straddling = rows[grouped[kept]].groupby("group")["split"].nunique()
        _note(problems, "group(s) are in more than one split", straddling.index[straddling > 1])
        problems += too_few_images(rows["split"], least)
        if scored:
            train = rows.loc[(rows["split"] == "train") & rows["score"].notna(), "score"]
            if len(train) > 1 and np.ptp(train) == 0:
                problems.append(f"all {len(train)} training scores are {train.iloc[0]:g}; there is nothing to learn")
    rows = rows[["image", "score", "split", "group"] if scored else ["image", "split", "group"]]
    more = frame.loc[kept, others].rename(columns={name: f"user_{name}" for name in others if name in _RESERVED})
    if not more.columns.is_unique:
        problems.append(f"rename one of the columns {', '.join(more.columns[more.columns.duplicated()])}")
        more = more.loc[:, ~more.columns.duplicated()]
    rows = pd.concat([rows, more], axis=1).reset_index(drop=True)
    return CheckedTable(ImageList(rows, source), problems, notes)


def too_few_images(splits: pd.Series, least: Mapping[Split, int]) -> list[str]:
    """A sentence for each split that has fewer images than a method needs at least."""
    counts = splits.value_counts()
    return [
        f"{counts.get(split, 0)} {split} image(s), at least {count} are needed (splits that are drawn follow"
        " data.val_fraction and data.test_fraction)"
        for split, count in least.items()
        if counts.get(split, 0) < count
    ]


def fingerprint(images: ImageList, store: ArtifactStore | None = None, *, keep: bool = True) -> str:
    """Sha256 over the rows and the content of every image file, for the key of the stage that reads the images.

    With a store only files that may have changed are read (`digests.image_digests`); without `keep` nothing is written
    there. Raises `DataError` when the storage fails.
    """
    digests = image_digests(images.rows["image"], images.source, store, keep=keep)
    rows = images.rows.to_csv(index=False).encode()
    deep = any(files.ending(name) in _DEEP_ENDINGS for name in images.rows["image"])
    return hashlib.sha256(rows + ",".join([*digests, *[_DEEP_VERSION] * deep]).encode()).hexdigest()


class _Table(NamedTuple):
    frame: pd.DataFrame
    wanted: dict[str, str]  # image, score, split, group -> the column that it is
    source: ImageSource
    problems: list[str]
    notes: list[str]
    lines: list[int] | None  # of each row in its file


def _read(data: ImageData) -> _Table:
    problems, notes, lines = list[str](), list[str](), None
    if data.dataset == "table":
        place = user_table.locate(data)
        (frame, lines, notes), source, group = user_table.read(data, place), place.source(), data.group_column
        wanted = {"image": data.image_column}
        split = data.split_column
        if place.kind == "images" and split not in frame:
            split = None
    else:
        known = KNOWN_DATASETS[data.dataset]
        frame, source = known.read(data.table), folder_source(user_table.image_folder(data))
        if known.spelling:
            frame["image"] = as_on_disk(frame["image"], source, known.spelling)
        wanted = {"image": "image"}
        group = data.group_column or "group"
        official = "split" in frame or data.split_column != type(data).model_fields["split_column"].default
        split = data.split_column if official else None
        if known.no_lists and not official and data.split_column and not _has_lists(data):
            problems.append(known.no_lists)
    if isinstance(data, Data):
        wanted["score"] = data.score_column
        if data.dataset != "table" and data.score_column != "score":  # the votes are of the data set's own score
            frame = frame.drop(columns=[name for name in frame.columns if VOTES_COLUMN.fullmatch(str(name))])
    if split and not _has_lists(data):
        wanted["split"] = split
    if group:
        wanted["group"] = group
    return _Table(frame, wanted, source, problems, notes, lines)


def _has_lists(data: ImageData) -> bool:
    return any(getattr(data.split_lists, split) for split in SPLITS)


def _absent_columns(absent: dict[str, str], frame: pd.DataFrame) -> str:
    fields = ", ".join(f"data.{name}_column" for name in absent)
    hint = f"; set {fields} to the right name"
    if "split" in absent:
        hint += ", or data.split_column: null to draw the splits"
    there = {plain(str(column)): str(column) for column in frame.columns}
    meant = [there[plain(column)] for column in absent.values() if plain(column) in there]
    if meant:
        hint = f"; did you mean {', '.join(meant)}?{hint.replace('; set', ' Set')}"
    missing = ", no ".join(f"{name} column {column!r}" for name, column in absent.items())
    return f"no {missing}; its columns are {', '.join(map(str, frame.columns))}{hint}"


def _check_images(rows: pd.DataFrame, lines: list[int] | None) -> list[str]:
    problems: list[str] = []
    named = rows["image"].str.strip() != ""
    _note(problems, "image path(s) are empty", _lines(lines, rows.index[~named]))
    _note(
        problems,
        "image path(s) are not inside the image folder; write them relative to it (data.images)",
        rows.loc[~rows["image"].map(is_safe), "image"],
    )
    again = rows["image"].map(posixpath.normpath).duplicated()  # ./1.jpg is 1.jpg
    _note(problems, "image(s) are listed more than once", rows.loc[named & again, "image"])
    return problems


def _check_scores(rows: pd.DataFrame, notes: list[str]) -> list[str]:
    problems: list[str] = []
    column = rows["score"]
    if column.dtype.kind not in "iuf":
        kept = column.map(_is_number_or_text)
        column = column.astype(object).where(kept.astype(bool))
        pointed = with_decimal_points(column)
        if pointed is not None:
            notes.append("decimal commas are read in the scores")
            column = pointed
    scores = pd.to_numeric(column, errors="coerce").astype(float)
    bad = ~np.isfinite(scores)
    names = rows["image"] if "image" in rows else pd.Series(rows.index + 2, index=rows.index)
    found = zip(names[bad], rows.loc[bad, "score"], strict=True)
    _note(
        problems,
        "score(s) are not finite numbers",
        [f"{image}: {score!r}" if isinstance(score, str) else f"{image}: {score}" for image, score in found],
    )
    rows["score"] = scores.where(~bad)
    return problems


def _is_number_or_text(value: object) -> bool:
    """Whether a value can be a score: no yes or no, no time, no list; pandas would make a number of each."""
    return isinstance(value, str | Decimal | Real) and not isinstance(value, bool | np.bool_)


def _lines(lines: list[int] | None, index: pd.Index) -> list[str]:
    """Lines of rows in their file, where it has lines; else their number from 1."""
    return [f"line {lines[row]}" if lines else f"row {row + 1}" for row in index]


def _text(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").map(str)


def _note(problems: list[str], what: str, found: object) -> None:
    items = [str(item).strip() for item in found]  # type: ignore[attr-defined]
    if items:
        more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
        problems.append(f"{len(items)} {what}: {', '.join(items[:_SHOWN])}{more}")
