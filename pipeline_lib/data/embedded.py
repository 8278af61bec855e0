"""Images that are stored as bytes inside Parquet files, as the `datasets` library exports them.

A column of `struct<bytes, path>`, or of plain binary. Parquet cannot give one row: it must decompress the row group
around it, a hundred images or, in files not written for images, all of them. Training asks for rows in random order, so
the column is copied once into the Arrow cache of `datasets` (HF_DATASETS_CACHE; as large as the images), which is
memory-mapped: a row is read alone, all processes share the pages, a changed file is copied again. Each image's digest
is checked when it is opened, also from the cache.
"""

import glob
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from pipeline_lib.data import files
from pipeline_lib.data.sources import MissingImage, file_version, is_safe
from pipeline_lib.errors import DataError


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds files."""
    if pa.types.is_struct(kind):
        return any(holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class EmbeddedImages(BaseModel):
    """The images in a column of Parquet files, local or on S3."""

    model_config = ConfigDict(frozen=True)

    files: tuple[str, ...]
    column: str
    state: str = ""  # of the files when a run found them: a process that lives long opens changed ones anew

    @classmethod
    def of(cls, paths: tuple[str, ...], column: str) -> "EmbeddedImages":
        """The images in files as they are now."""
        return cls(files=paths, column=column, state=_version(paths) or f"changing at {time.time_ns()}")

    def read(self, image: str) -> bytes:
        """The bytes in one row."""
        images = self._images()
        row = images.rows.get(image)
        content = None if row is None else images.content(row)
        if content is None:
            raise MissingImage("its row holds no bytes" if row is not None else "no row has this name")
        return content

    @property
    def place(self) -> str:
        """The files and the column."""
        return "\n".join([*map(_whole, self.files), self.column])

    def version(self, image: str) -> str | None:
        """That of all files together, because a row is not known by its file."""
        images = self._images()
        return images.version if image in images.rows else None

    def names(self) -> Iterable[str]:
        """One name a row, in order: the paths beside the bytes if they are all different, else the row's number."""
        return self._images().rows.keys()

    def _images(self) -> "_Mapped":
        return _mapped(self.files, self.column, self.state)


class _Mapped(NamedTuple):
    """A memory-mapped column; `table` has one row an image."""

    table: Any  # datasets.Dataset
    column: str
    rows: dict[str, int]
    version: str | None

    def content(self, row: int) -> bytes | None:
        value: Any = self.table[row].column(self.column)[0].as_py()
        content: bytes | None = value["bytes"] if isinstance(value, dict) else value
        return content


@lru_cache(maxsize=8)
def _mapped(paths: tuple[str, ...], column: str, state: str) -> _Mapped:
    from datasets import Dataset, config
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    version = _version(paths)  # before the files are read, so that it is not that of a later content
    try:
        dataset = Dataset.from_parquet(
            [glob.escape(_local(path, Path(config.HF_DATASETS_CACHE))) for path in paths], columns=[column]
        )
    except DataError:
        raise
    except Exception as error:  # datasets wraps the errors of Arrow, the disk and S3
        raise DataError(f"{paths[0]} ({len(paths)} file(s)) cannot be read: {error.__cause__ or error}") from error
    images = dataset.data.column(column)
    names = _names(images)
    return _Mapped(dataset.with_format("arrow"), column, {name: row for row, name in enumerate(names)}, version)


def _version(paths: tuple[str, ...]) -> str | None:
    """The versions of all files; None when that of one is not known."""
    found = [_entry(path) if files.is_remote(path) else file_version(path) for path in paths]
    return None if None in found else ", ".join(map(str, found))


def _entry(path: str) -> str:
    from pipeline_lib.store.s3_files import reading

    try:
        facts = reading().entry(path)
    except Exception as error:
        raise files.unreachable(path, error) from error
    return f"{facts.size} {facts.etag}"


def _whole(path: str) -> str:
    return path if files.is_remote(path) else os.path.abspath(path)


def _local(path: str, cache: Path) -> str:
    """The path itself; for an S3 object a copy in the cache, because `datasets` does not read S3 when it is offline."""
    if not files.is_remote(path):
        return os.path.abspath(path)
    from pipeline_lib.store.s3_files import reading

    storage = reading()
    try:
        facts = storage.entry(path)
        version = f"{path} {facts.size} {facts.etag}"
        copy = cache / "whyscore" / f"{hashlib.sha256(version.encode()).hexdigest()}.parquet"
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=copy.parent) as folder:  # never seen half written
                storage.get(path, Path(folder, "part"))
                os.replace(f"{folder}/part", copy)
    except Exception as error:
        raise files.unreachable(path, error) from error
    return str(copy)


def _names(images: Any) -> list[str]:
    kind = images.type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        paths = pc.struct_field(images, "path").to_pylist()
        if all(path and path.strip() and is_safe(path) for path in paths) and len(set(paths)) == len(paths):
            return paths  # type: ignore[no-any-return]
    return [f"row-{row:08d}" for row in range(len(images))]


def image_column_type(path: str, column: str) -> pa.DataType | None:
    """The type of a column of a Parquet file, None when it has no such column. Raises `DataError` if unreadable."""
    schema = parquet_schema(path)
    place = schema.get_field_index(column)
    return schema.field(place).type if place >= 0 else None


def parquet_schema(path: str) -> pa.Schema:
    """The columns of a Parquet file, from its footer alone."""
    try:
        return files.with_file(path, pq.read_schema)
    except FileNotFoundError:
        raise DataError(f"image table {path} does not exist; set data.table to a CSV or Parquet file") from None
    except Exception as error:
        raise DataError(f"image table {path} cannot be read: {error}") from error
