"""The data sets that `data.dataset` can name; each has a module that begins with the lines it parses."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from pipeline_lib.data import aadb, ava, kadid10k, koniq10k, spaq, tid2013
from pipeline_lib.data.sources import ImageSource


class KnownDataset(NamedTuple):
    """Functions that read a data set."""

    read: Callable[[str], pd.DataFrame]
    """Label file or folder -> columns image, score, group, the official split if there is one, and all others."""
    spelling: Callable[[str], str] | None = None
    """The part that a name in the list and the name of its file share, if the two can differ."""
    no_lists: str = ""
    """The error if there is no official split, no list, and no drawing of splits; empty: draw."""


KNOWN_DATASETS = {
    "ava": KnownDataset(ava.read, no_lists=ava.NO_LISTS),
    "aadb": KnownDataset(aadb.read, aadb.spelling),
    "koniq10k": KnownDataset(koniq10k.read),
    "spaq": KnownDataset(spaq.read),
    "kadid10k": KnownDataset(kadid10k.read),
    "tid2013": KnownDataset(tid2013.read, tid2013.spelling),
}


def as_on_disk(images: pd.Series, source: ImageSource, spelling: Callable[[str], str]) -> pd.Series:
    """The names as their files are written; a name with no file, or with two that differ only in spelling, stays."""
    there = set(source.names())
    spelled: dict[str, list[str]] = {}
    for name in there:
        spelled.setdefault(spelling(name), []).append(name)

    def find(image: str) -> str:
        found = spelled.get(spelling(image), [])
        return found[0] if image not in there and len(found) == 1 else image

    return images.map(find)
