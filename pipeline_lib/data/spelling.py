"""Names of images that a table writes differently from their files: Unicode form, case, blanks, backslashes.

Tables move between systems. `Bild.JPG` of a Windows table is `bild.jpg` here, a Mac writes an umlaut as two characters,
and Windows has backslashes between folders.
"""

import posixpath
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.data.sources import Bucket, ImageSource, LocalFolder, is_safe

_SHOWN = 3


class Spelled(NamedTuple):
    """Names as their files are written, and a sentence about those that the table writes differently, if any."""

    images: pd.Series
    note: str


def plain(name: str) -> str:
    """A name without what may differ between systems; equal for two spellings of one name."""
    parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
    return posixpath.normpath("/".join(part.strip() for part in parts).casefold())


def as_files_are_written(images: pd.Series, source: ImageSource) -> Spelled:
    """Replace each name without a file by that of the one file that differs from it only in spelling.

    Each folder that a name mentions is listed once. A name with no such file, or with two, stays.
    """
    if not isinstance(source, (LocalFolder, Bucket)):
        return Spelled(images, "")
    find = _finder(source)
    found = {name: find(name) if name.strip() and is_safe(name) else name for name in images.unique()}
    if changed := [(name, file) for name, file in found.items() if name != file]:
        examples = ", ".join(f"{name!r} is {file!r}" for name, file in changed[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        note = f"{len(changed)} image name(s) are written differently from their files: {examples}{more}"
        return Spelled(images.map(found), note)
    return Spelled(images, "")


def _finder(source: LocalFolder | Bucket) -> Callable[[str], str]:
    if isinstance(source, Bucket):  # one listing has all names
        names = set(source.names())
        spelled = _by_plain(names)
        return lambda name: name if posixpath.normpath(name) in names else _only(spelled.get(plain(name), []), name)
    folders: dict[str, tuple[set[str], dict[str, list[str]]]] = {}

    def listed(folder: str) -> tuple[set[str], dict[str, list[str]]]:
        if folder not in folders:
            there = files.list_folder(files.join(str(source.root), folder) if folder else str(source.root))
            folders[folder] = set(there), _by_plain(there)
        return folders[folder]

    def find(name: str) -> str:
        folder, _, last = posixpath.normpath(name).rpartition("/")
        if last in listed(folder)[0]:
            return name
        at = ""
        for part in name.replace("\\", "/").split("/"):
            if part in ("", "."):
                continue
            exact, spelled = listed(at)
            match = part if part in exact else _only(spelled.get(plain(part), []), "")
            if not match:
                return name
            at = f"{at}/{match}" if at else match
        return at

    return find


def _by_plain(names: set[str] | list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(plain(name), []).append(name)
    return found


def _only(found: list[str], otherwise: str) -> str:
    return found[0] if len(found) == 1 else otherwise
