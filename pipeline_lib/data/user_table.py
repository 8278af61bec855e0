"""A user's own data: a table (CSV, Excel, JSON lines, Parquet), a Hugging Face image folder, Parquet with images in it.

If no scores are read, a folder of images is a table too, with only their names.

An image folder has a `metadata.csv`, `.jsonl` or `.parquet` with a `file_name` column, in itself or in sub-folders that
are named like splits. Parquet shards may be named like splits too (`train-00000-of-00004.parquet`).
"""

import logging
import re
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from pipeline_lib.config.base import SPLITS, Data, ImageData
from pipeline_lib.data import files
from pipeline_lib.data.embedded import EmbeddedImages, holds_bytes, image_column_type, parquet_schema
from pipeline_lib.data.frames import ENDINGS, Frame, read_table
from pipeline_lib.data.sources import ImageSource, folder_source
from pipeline_lib.data.splits import split_name
from pipeline_lib.errors import DataError

log = logging.getLogger("whyscore.data")

_METADATA = tuple(f"metadata{ending}" for ending in ENDINGS)
_SHARD_SPLIT = re.compile(r"(train|training|val|valid|validation|dev|test|testing)(?=[-_.])", re.IGNORECASE)


class Place(NamedTuple):
    """The place of a user's table and images; `embedded` when the images are bytes in the table."""

    tables: tuple[str, ...]
    kind: str  # table, image_folder, parquet or images
    images: str
    embedded: EmbeddedImages | None

    def source(self) -> ImageSource:
        """The source of the image files."""
        return self.embedded or folder_source(self.images)


def image_folder(data: ImageData) -> str:
    """`data.images`, or else the folder of the table."""
    return data.images or (data.table if files.is_folder(data.table) else files.parent(data.table))


def locate(data: ImageData) -> Place:
    """Find the kind of a user's `data.table`. Raises `DataError` when it is none of the kinds above."""
    path, folder = data.table, image_folder(data)
    if files.is_folder(path):
        if metadata := _metadata_files(path):
            return Place(metadata, "image_folder", folder, None)
        shards = _shards(path)
        if not shards and not isinstance(data, Data) and files.image_names(path):
            return Place((path,), "images", folder, None)
        if not shards:
            raise DataError(
                f"image table {path} is a folder: expected {', '.join(_METADATA)} with a file_name column (a Hugging"
                " Face image folder), or Parquet files, found neither; for a CSV give the path of the file"
            )
    elif files.ending(path) in {".parquet", ".pq"}:
        shards = (path,)
    else:
        return Place((path,), "table", folder, None)
    kind = image_column_type(shards[0], data.image_column)
    embedded = EmbeddedImages.of(shards, data.image_column) if kind and holds_bytes(kind) else None
    return Place(shards, "parquet", folder, embedded)


def read_rows(data: ImageData, place: Place) -> pd.DataFrame:
    """The rows of `read`, numbered from 0; guesses are logged."""
    frame = read(data, place)
    for note in frame.notes:
        log.info("%s: %s", data.table, note)
    return frame.rows.reset_index(drop=True)


def read(data: ImageData, place: Place) -> Frame:
    """The user's columns under their own names, images as names.

    A split that folders or shards are named by is put into `data.split_column` when the table has no such column.
    """
    names = [name for name in (data.image_column, data.group_column) if name]
    if place.kind == "table":
        return read_table(place.tables[0], names)
    if place.kind == "images":
        return Frame(pd.DataFrame({data.image_column: files.image_names(place.tables[0])}), None, [])
    notes: list[str] = []
    if place.kind == "image_folder":
        parts = [_metadata(data, path, names, notes) for path in place.tables]
        splits = [_folder_split(data, path) for path in place.tables]
    else:
        parts = [_shard(path, data.image_column) for path in place.tables]
        splits = [_shard_split(path) for path in place.tables]
    named = [split in SPLITS for split in splits]
    has_column = data.split_column is None or any(data.split_column in part for part in parts)
    if any(named) and not all(named) and not has_column:
        raise DataError(
            f"{data.table}: {place.tables[named.index(False)]} is not named like a split and"
            f" {place.tables[named.index(True)]} is; name all or none, or give a split column"
        )
    if data.split_column and all(named) and not has_column:
        parts = [part.assign(**{data.split_column: split}) for part, split in zip(parts, splits, strict=True)]
    frame = pd.concat(parts, ignore_index=True)
    if place.embedded:
        frame.insert(0, data.image_column, list(place.embedded.names()))
    return Frame(frame, None, notes)


def _metadata_files(folder: str) -> tuple[str, ...]:
    there = files.list_folder(folder)
    found = [files.join(folder, name) for name in _METADATA if name in there]
    for name in there:
        if split_name(name) in SPLITS and files.is_folder(inner := files.join(folder, name)):
            found += [files.join(inner, file) for file in files.list_folder(inner) if file in _METADATA]
    return tuple(found)


def _metadata(data: ImageData, path: str, names: list[str], notes: list[str]) -> pd.DataFrame:
    frame, _, guesses = read_table(path, [*names, "file_name"])
    notes += [f"{path}: {guess}" for guess in guesses]
    if "file_name" not in frame:
        raise DataError(f"{path}: no column file_name; its columns are {', '.join(map(str, frame.columns))}")
    inner = files.parent(path)[len(data.table.rstrip("/")) + 1 :]
    written = frame["file_name"].astype(object).where(frame["file_name"].notna(), "").map(str)
    frame["file_name"] = written.map(lambda name: f"{inner}/{name}" if inner and name.strip() else name)
    return frame.rename(columns={"file_name": data.image_column})


def _folder_split(data: ImageData, path: str) -> str:
    inner = files.parent(path)[len(data.table.rstrip("/")) + 1 :]
    return split_name(inner)


def _shards(folder: str) -> tuple[str, ...]:
    there = files.list_folder(folder)
    if "data" in there and not any(files.ending(name) == ".parquet" for name in there):  # as a hub repository has it
        folder = files.join(folder, "data")
        there = files.list_folder(folder)
    return tuple(files.join(folder, name) for name in there if files.ending(name) == ".parquet")


def _shard_split(path: str) -> str:
    found = _SHARD_SPLIT.match(path.rsplit("/", 1)[-1])
    return split_name(found[1]) if found else ""


def _shard(path: str, image_column: str) -> pd.DataFrame:
    schema = parquet_schema(path)
    binary = [field.name for field in schema if holds_bytes(field.type)]
    columns = [name for name in schema.names if name not in binary]
    try:
        rows = files.with_file(path, lambda file: pq.read_table(file, columns=columns))
        frame = rows.to_pandas(ignore_metadata=True)
    except Exception as error:
        raise DataError(f"image table {path} cannot be read: {error}") from error
    if others := [name for name in binary if name != image_column]:
        log.info("%s: column(s) %s hold bytes and are not kept", path, ", ".join(others))
    return frame
