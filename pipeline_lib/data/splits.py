"""The split of each image: drawn, or given by lists."""

import functools
import hashlib
import posixpath
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline_lib.config.base import SPLITS, ImageData
from pipeline_lib.data import files
from pipeline_lib.data.spelling import plain
from pipeline_lib.errors import DataError

SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
"""Other names of the splits."""
LEFT_OUT = ""
_SHOWN = 5


def split_name(name: object) -> str:
    """The split that a word means, or the word itself in lower case."""
    word = str(name).strip().lower()
    return SPLIT_NAMES.get(word, word)


def draw_splits(groups: pd.Series, val_fraction: float, test_fraction: float, seed: int) -> pd.Series:
    """Draw a split for every group, so that images of one group stay together.

    A group's split depends only on its name and the seed: new rows in the table move no image to another split.
    """

    def split(group: str) -> str:
        place = int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8]) / 2**64
        return "test" if place < test_fraction else "val" if place < test_fraction + val_fraction else "train"

    return groups.map(split)


class Listed(NamedTuple):
    """The split of each row, `LEFT_OUT` for a row in no list; problems; notes."""

    splits: pd.Series
    problems: list[str]
    notes: list[str]


def split_by_lists(images: pd.Series, groups: pd.Series, data: ImageData, seed: int) -> Listed:
    """Splits by `data.split_lists` (see `recipe.SplitLists`); a list that is not given is drawn by group from the rest.

    A line names an image with or without its folder and ending. Names that the table lacks are missing images, so
    `data.max_unreadable_fraction` of a list may be; 70 of the 20,000 in AVA's test list are such.
    """
    given = {split: path for split in SPLITS if (path := getattr(data.split_lists, split))}
    by_path, by_name = _rows_by_name(images)
    plainly = functools.cache(lambda: _rows_by_name(images.map(plain)))  # only needed where spellings differ
    problems: list[str] = []
    notes: list[str] = []
    found: dict[str, list[int]] = {}
    for split, path in given.items():
        try:
            lines = [line for line in files.read_lines(path) if line]
        except DataError as error:
            lines = []
            problems.append(f"data.split_lists.{split}: {error}")
        matches = {line: _find(line, by_path, by_name) or _find(plain(line), *plainly()) for line in lines}
        unknown = [line for line, rows in matches.items() if not rows]
        if unknown:
            few = len(unknown) <= data.max_unreadable_fraction * len(matches)
            allowed = "" if few else f" (data.max_unreadable_fraction allows {data.max_unreadable_fraction:g})"
            text = f"{path}: {len(unknown)} of {len(matches)} name(s) are not in the table{allowed}: {_some(unknown)}"
            (notes if few else problems).append(text)
        if ambiguous := [line for line, rows in matches.items() if len(rows) > 1]:
            problems.append(f"{path}: {len(ambiguous)} name(s) match more than one image: {_some(ambiguous)}")
        found[split] = [rows[0] for rows in matches.values() if len(rows) == 1]
    counts = pd.Series([row for rows in found.values() for row in set(rows)], dtype=int).value_counts()
    if twice := sorted(counts.index[counts > 1]):
        problems.append(f"{len(twice)} image(s) are in more than one split list: {_some(list(images.iloc[twice]))}")
    drawn = draw_splits(
        groups, 0.0 if "val" in given else data.val_fraction, 0.0 if "test" in given else data.test_fraction, seed
    )
    place = drawn.to_numpy(dtype=object, copy=True)
    if "train" in given:
        listed = np.zeros(len(place), dtype=bool)
        listed[found["train"]] = True
        place[~listed] = LEFT_OUT
    for split in ("val", "test"):
        place[found.get(split, [])] = split
    splits = pd.Series(place, index=images.index)
    if left_out := int((splits == LEFT_OUT).sum()):
        notes.append(f"{left_out} image(s) of the table are in no split list and left out")
    return Listed(splits, problems, notes)


def _rows_by_name(images: pd.Series) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Rows by path; and of those in a folder also by bare name. Both with and without ending."""
    by_path: dict[str, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for row, image in enumerate(images.tolist()):
        path = posixpath.normpath(image)
        stem, dot, _ = path.rpartition(".")
        spelled = (path, stem) if dot else (path,)
        for text in spelled:
            by_path.setdefault(text, []).append(row)
        if "/" in path:
            for text in spelled:
                by_name.setdefault(posixpath.basename(text), []).append(row)
    return by_path, by_name


def _find(line: str, by_path: dict[str, list[int]], by_name: dict[str, list[int]]) -> list[int]:
    if found := by_path.get(posixpath.normpath(line)):
        return found
    name = posixpath.basename(line)
    return by_path.get(name, []) + by_name.get(name, [])


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
