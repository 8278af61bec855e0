"""Look at a table or folder that nobody has described, and find what each column is.

An image column is found by looking for its files, the others by their values and names. What two columns could be is
left open: `Candidates.choice` is None then, and a person has to say it.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline_lib.config.base import SPLITS, Data, ImageData
from pipeline_lib.data import files, user_table
from pipeline_lib.data.embedded import holds_bytes, parquet_schema
from pipeline_lib.data.frames import read_table, with_decimal_points
from pipeline_lib.data.sources import LocalFolder, folder_source, is_safe
from pipeline_lib.data.spelling import as_files_are_written
from pipeline_lib.data.splits import split_name
from pipeline_lib.errors import DataError

_SAMPLE = 200
_MOST_FOLDERS = 100
_LEAST_NUMBERS = 0.8
"""Share of the rows of a column of scores; the others are named, and a run refuses them."""
_SHOWN = 3

_IMAGE_NAMES = {"image", "images", "img", "file", "filename", "file_name", "path", "photo", "picture", "bild", "datei"}
_SCORE_NAMES = {
    *("score", "scores", "mos", "rating", "ratings", "mean", "average", "quality", "aesthetic", "aesthetics", "grade"),
    *("points", "mark", "stars", "appeal", "overall", "note", "punkte", "bewertung", "bewertungen"),
}
_NO_SCORE_NAMES = {
    *("width", "height", "w", "h", "px", "size", "bytes", "year", "month", "day", "date", "time", "sd", "std", "stdev"),
    *("var", "variance", "count", "n", "votes", "lat", "lon", "iso", "id", "index", "idx", "nr", "no", "number"),
    *("unnamed", "raters", "ci"),
}
_LOWER_IS_BETTER = {"dmos", "rank", "error", "loss", "defects", "distance"}
_GROUP_NAMES = {
    *("group", "groups", "scene", "product", "source", "reference", "ref", "series", "session", "burst", "subject"),
    *("object", "item", "gruppe", "produkt", "serie", "motiv"),
}
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[\\/]")


class Column(NamedTuple):
    """A column that could be meant, with the reason; `likely` if its name says so too."""

    name: str
    why: str
    likely: bool


class Candidates(NamedTuple):
    """The columns that one thing could be in, in the order of the table."""

    columns: tuple[Column, ...]

    @property
    def choice(self) -> str | None:
        """The only one, or the only likely one; None: there is none, or a person has to choose."""
        likely = [column.name for column in self.columns if column.likely]
        if len(likely) == 1:
            return likely[0]
        return self.columns[0].name if len(self.columns) == 1 else None


class Found(NamedTuple):
    """The facts about a table: `kind` as in `user_table.Place`, and which column each thing could be in.

    `images` is the folder of the image column if it is not the table's own. `notes` are sentences for a person, with
    what had to be guessed to read the table.
    """

    table: str
    kind: str
    rows: int
    columns: tuple[str, ...]
    images: str
    image: Candidates
    score: Candidates
    split: Candidates
    group: Candidates
    further_groups: tuple[str, ...]  # columns of which a person may say that they are groups
    scores_in_words: str | None  # a column that is named like a score, and holds no numbers
    notes: tuple[str, ...]


def look_at_table(table: str, images: str = "", image_column: str | None = None) -> Found:
    """Read a table, a folder of images, or any other kind of `user_table`, and find its columns.

    `images` and `image_column` are what a person has said already. Raises `DataError` when there is no table, it has no
    row, no such column, or no column with images.
    """
    place = _locate(table)
    if place.kind == "images":
        names = files.image_names(table)
        note = f"a folder with {len(names):,} images and no scores"
        image = Candidates((Column("image", "the names of the images", True),))
        nothing = Candidates(())
        return Found(table, "images", len(names), ("image",), "", image, nothing, nothing, nothing, (), None, (note,))
    frame, notes, taken = _frame(table, place, image_column)
    columns = tuple(str(name) for name in frame.columns)
    if frame.empty:
        raise DataError(f"{table}: no rows are below the header ({', '.join(columns)}); add a row for each image")
    if taken is not None:  # the file's kind says where the images are
        image, folder = Candidates((Column(taken, "the images are in it", True),)), ""
    else:
        wanted = [image_column] if image_column else list(columns)
        image, folder, more = _image_column(table, frame, wanted, images)
        notes += more
    chosen = image.choice
    rest = [name for name in columns if name != chosen]
    split, more = _split_column(frame, rest)
    notes += more
    others = [name for name in rest if name != split.choice]
    score, more = _score_columns(frame, others)
    notes += more
    in_words = _scores_in_words(frame, others)
    if in_words:
        some = ", ".join(repr(text) for text in list(dict.fromkeys(_texts(frame[in_words])))[:_SHOWN])
        notes.append(
            f"column {in_words} holds texts such as {some}; a score has to be a number, higher is better: write numbers"
            " instead (e.g. bad 1, good 2)"
        )
    taken_columns = {chosen, split.choice, *(column.name for column in score.columns)}
    split_values = frame[split.choice].map(split_name) if split.choice else None
    group, further, more = _group_columns(frame, [name for name in rest if name not in taken_columns], split_values)
    notes += more
    return Found(
        table,
        place.kind,
        rows=len(frame),
        columns=columns,
        images=folder,
        image=image,
        score=score,
        split=split,
        group=group,
        further_groups=tuple(further),
        scores_in_words=in_words,
        notes=tuple(notes),
    )


def _locate(table: str) -> user_table.Place:
    """The kind of the table when its columns are not known yet."""
    place = user_table.locate(ImageData(table=table))
    if place.kind == "parquet" and (binary := _binary_columns(place.tables[0])):
        return user_table.locate(ImageData(table=table, image_column=binary[0]))
    return place


def _binary_columns(path: str) -> list[str]:
    return [field.name for field in parquet_schema(path) if holds_bytes(field.type)]


def _frame(table: str, place: user_table.Place, image_column: str | None) -> tuple[pd.DataFrame, list[str], str | None]:
    """Rows, notes, and the image column if the kind of the file decides it."""
    if place.kind == "table":
        read = read_table(table, [image_column] if image_column else [])
        return _with_names(read.rows, table), list(read.notes), None
    binary = _binary_columns(place.tables[0]) if place.kind == "parquet" else []
    column = image_column or (binary[0] if place.embedded else "image")
    read = user_table.read(Data(table=table, image_column=column), place)
    decided = column if place.embedded or place.kind == "image_folder" else None
    return _with_names(read.rows.reset_index(drop=True), table), list(read.notes), decided


def _with_names(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    named = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if not named.columns.is_unique:
        raise DataError(f"{table}: two columns are named {named.columns[named.columns.duplicated()][0]}; rename one")
    return named


def _image_column(
    table: str, frame: pd.DataFrame, wanted: Sequence[str], images: str
) -> tuple[Candidates, str, list[str]]:
    """The columns whose values are image files, and the folder that they are in, if it is not the table's own."""
    if absent := [name for name in wanted if name not in frame]:
        raise DataError(f"{table} has no column {absent[0]}; its columns are {', '.join(frame.columns)}")
    texts = {name: _texts(frame[name]) for name in wanted if frame[name].dtype.kind not in "fbcmM"}
    said = len(wanted) == 1
    likely = {name: values for name, values in texts.items() if values and (said or _look_like_images(values))}
    if absolute := [name for name, values in likely.items() if all(_ABSOLUTE.match(value) for value in values)]:
        raise DataError(_absolute_paths(absolute[0], likely[absolute[0]]))
    own = user_table.image_folder(ImageData(table=table))
    columns, notes, used = [], list[str](), set[str]()
    for name, values in likely.items():
        sample = values[:: max(1, len(values) // _SAMPLE)][:_SAMPLE]
        counts = {place: sum(_are_there(sample, place or own)) for place in ([images] if images else _folders(table))}
        folder = max(counts, key=lambda place: counts[place])  # of equal ones the first
        if not counts[folder]:
            continue
        there = _are_there(values, folder or own)
        where = f"in {folder}" if folder else "beside the table"
        why = f"{sum(there):,} of {len(frame):,} rows name a file {where}"
        columns.append(Column(name, why, said or name.strip().lower() in _IMAGE_NAMES))
        used.add(folder)
        missing = [value for value, found in zip(values, there, strict=True) if not found]
        parts = [f"{len(missing):,} image(s) are missing, e.g. {missing[0]}"] if missing else []
        parts += [f"{len(frame) - len(values):,} row(s) have no image name"] if len(values) < len(frame) else []
        if parts:
            notes.append(f"column {name}: {' and '.join(parts)}; a run refuses the table until they are repaired")
        if equal := [place for place in counts if place != folder and counts[place] == counts[folder]]:
            notes.append(f"files of the same names are in {equal[0]} too; --images says which folder is meant")
    if not columns:
        raise DataError(_no_image_column(table, frame, list(likely), images))
    return Candidates(tuple(columns)), used.pop() if len(used) == 1 else "", notes


def _texts(column: pd.Series) -> list[str]:
    return [text for value in column if value is not None and value == value and (text := str(value)).strip()]


def _look_like_images(values: list[str]) -> bool:
    return sum(files.ending(value.strip()) in files.IMAGE_ENDINGS for value in values) >= len(values) / 2


def _folders(table: str) -> list[str]:
    """The table's own folder (empty), then the folders in it and beside it."""
    if files.is_remote(table):
        return [""]
    own = files.parent(table) if not files.is_folder(table) else table
    inner = [files.join(own, name) for name in files.list_folder(own)]
    above = files.join(own, "..")
    here = os.path.basename(os.path.abspath(own))
    beside = [files.join(above, name) for name in files.list_folder(above) if name != here]
    folders = [folder for folder in [*inner, *beside][: 10 * _MOST_FOLDERS] if files.is_folder(folder)]
    return ["", *folders[:_MOST_FOLDERS]]


def _are_there(values: Sequence[str], folder: str) -> list[bool]:
    """For each name, whether the folder has such a file, in whatever spelling."""
    source = folder_source(folder)
    written = as_files_are_written(pd.Series(list(values), dtype=object), source).images
    if isinstance(source, LocalFolder):
        return [is_safe(name) and _is_file(source, name) for name in written]
    names = set(source.names())
    return [name in names for name in written]


def _is_file(source: LocalFolder, name: str) -> bool:
    try:
        return (source.root / name).is_file()
    except (OSError, ValueError):  # no system has a file of such a name
        return False


def _absolute_paths(name: str, values: list[str]) -> str:
    whole = [value.replace("\\", "/") for value in values]
    common = whole[0].rpartition("/")[0]
    while common and not all(value.startswith(common + "/") for value in whole):
        common = common.rpartition("/")[0]
    return (
        f"column {name} holds whole paths, e.g. {values[0]}; WhyScore reads names relative to one folder, so that table"
        f" and images can move. Remove {common + '/' if common else 'the folders'!r} from the names, and give that"
        " folder with --images"
    )


def _no_image_column(table: str, frame: pd.DataFrame, likely: list[str], images: str) -> str:
    columns = ", ".join(map(str, frame.columns))
    if likely:
        where = images or f"{files.parent(table)}, in the folders in it or in those beside it"
        example = _texts(frame[likely[0]])[0]
        return (
            f"{table}: column {likely[0]} has names such as {example}, and none of these files is in {where};"
            " give their folder with --images"
        )
    return (
        f"{table}: no column has names of images; its columns are {columns}. Each row needs the name of an image file,"
        " relative to the table's folder or to --images. Name the column with --image-column if they have no ending"
    )


def _split_column(frame: pd.DataFrame, names: Sequence[str]) -> tuple[Candidates, list[str]]:
    columns, notes = [], list[str]()
    for name in names:
        if frame[name].dtype.kind in "iufcbmM":
            continue
        values = [split_name(value) for value in _texts(frame[name])]
        if not values or not set(values) <= set(SPLITS):
            continue
        counts = {split: values.count(split) for split in SPLITS}
        said = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        if len(values) < len(frame) or not all(counts.values()):
            why = f"{len(frame) - len(values):,} row(s) have none" if len(values) < len(frame) else said
            notes.append(
                f"column {name} looks like splits, but each row needs one, and train, val and test are all needed"
                f" ({why}); it is not used, so new splits are drawn"
            )
            continue
        columns.append(Column(name, said, name.strip().lower() in {"split", "set", "subset"}))
    return Candidates(tuple(columns)), notes


def _score_columns(frame: pd.DataFrame, names: Sequence[str]) -> tuple[Candidates, list[str]]:
    """Columns of numbers that can be scores, and sentences about those that cannot."""
    notes, numeric = list[str](), dict[str, tuple[pd.Series, int]]()
    for name in names:
        numbers = _numbers(frame[name])
        if numbers is None or not _mostly_numbers(frame[name]):
            continue
        known = numbers.dropna()
        if known.nunique() < 2:
            notes.append(f"column {name} is {known.iloc[0]:g} everywhere; there is nothing to learn from it")
            continue
        numeric[name] = known, len(frame) - len(known)
    votes = [name for name in numeric if re.fullmatch(r"votes_\d+(\.\d+)?", name)]
    if votes:
        notes.append(
            f"columns {votes[0]} to {votes[-1]} are the raters' votes; the report compares the model with them"
        )
    series = _rater_columns([name for name in numeric if name not in votes])
    if series:
        notes.append(
            f"columns {', '.join(series[:_SHOWN])}{', ..' if len(series) > _SHOWN else ''} look like ratings of single"
            " raters; WhyScore learns from one column, so add one with their mean"
        )
    possible = [name for name in numeric if name not in votes and not _is_no_score(name, numeric[name][0])]
    alone = [name for name in possible if name not in series] or possible
    columns = []
    for name in alone:
        known, lost = numeric[name]
        why = f"numbers {known.min():g} to {known.max():g}, mean {known.mean():.4g}"
        if lost:
            why += f"; {lost:,} row(s) have no number, which a run refuses"
        words = _words(name)
        if words & _LOWER_IS_BETTER:
            why += "; its name suggests that lower is better, and WhyScore takes higher for better"
        columns.append(Column(name, why, bool(words & _SCORE_NAMES) and not words & _LOWER_IS_BETTER))
    return Candidates(tuple(columns)), notes


def _scores_in_words(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    named = [name for name in names if _words(name) & _SCORE_NAMES and not _words(name) & _NO_SCORE_NAMES]
    return next((name for name in named if not _mostly_numbers(frame[name]) and _texts(frame[name])), None)


def _mostly_numbers(column: pd.Series) -> bool:
    numbers = _numbers(column)
    return numbers is not None and bool(numbers.notna().mean() >= _LEAST_NUMBERS)


def _numbers(column: pd.Series) -> pd.Series | None:
    """A column as numbers, NaN where it has none; None if it cannot hold numbers: yes and no, times, lists."""
    if column.dtype.kind in "iuf":
        return column.astype(float).where(np.isfinite(column.astype(float)))
    if column.dtype.kind in "bcmM" or any(isinstance(value, bool | list | dict | np.ndarray) for value in column):
        return None
    pointed = with_decimal_points(column)
    numbers = pd.to_numeric(column if pointed is None else pointed, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def _rater_columns(names: Sequence[str]) -> list[str]:
    """Columns of one name that end in different numbers."""
    stems: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?[A-Za-z])[ _.-]?\d+", name):
            stems.setdefault(match[1].lower(), []).append(name)
    return next((found for found in stems.values() if len(found) > 1), [])


def _is_no_score(name: str, numbers: pd.Series) -> bool:
    words = _words(name)
    if words & _NO_SCORE_NAMES and not words & (_SCORE_NAMES - {"mean"}):
        return True
    counted = numbers.is_unique and (numbers % 1 == 0).all() and numbers.max() - numbers.min() == len(numbers) - 1
    return bool(counted) and not words & _SCORE_NAMES  # the number of the row


def _group_columns(
    frame: pd.DataFrame, names: Sequence[str], splits: pd.Series | None
) -> tuple[Candidates, list[str], list[str]]:
    columns, others, notes = list[Column](), list[str](), list[str]()
    for name in names:
        if frame[name].dtype.kind in "fcmMb" or any(
            isinstance(value, list | dict | np.ndarray) for value in frame[name]
        ):
            continue
        values = frame[name]
        distinct = values.nunique()
        named = bool(_words(name) & _GROUP_NAMES)
        if not 2 <= distinct < len(frame) or not (named or distinct <= len(frame) / 2):
            continue
        empty = int((values.isna() | (values.astype(str).str.strip() == "")).sum())
        if not named:
            if not empty:
                others.append(name)
        elif empty:
            notes.append(f"column {name} could be groups, but {empty:,} row(s) have none; it is not used")
        elif splits is not None and (splits.groupby(values).nunique() > 1).any():
            notes.append(f"column {name} could be groups, but some are in more than one split; it is not used")
        else:
            columns.append(Column(name, f"{distinct:,} groups of images that stay in one split", True))
    return Candidates(tuple(columns)), others, notes


def _words(name: str) -> set[str]:
    """The words of a column's name; MeanScore, mean_score and `mean score` have the same."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return set(re.findall(r"[^\W\d_]+", parted.lower()))
