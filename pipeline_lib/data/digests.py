"""The digest of every image file, computed again only when the file may have changed.

A digest is kept in the store with the version of its file: size, time of writing and time of change of a local file,
size and ETag of an S3 object. Another version means that the file is read again. Only the digest counts, so a file
that was touched, copied or moved stays the same image, and another content of the same size is another image.

The state after a hard crash: the file of before, so that new images are read again.
"""

import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.data.sources import ImageSource, MissingImage
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore

_AT_ONCE = 1024  # images in the threads' queue

_SCHEMA = pa.schema([("image", pa.string()), ("version", pa.string()), ("sha256", pa.string())])


class _Known(NamedTuple):
    version: str
    sha256: str


def image_digests(
    names: Iterable[str], source: ImageSource, store: ArtifactStore | None, *, keep: bool = True
) -> list[str]:
    """Sha256 of each image's file, in order; empty when it is missing. Raises `DataError` when the storage fails.

    `store` holds the digests of before; without `keep` it is only read.
    """
    names = list(names)
    known = _read(store, source) if store else {}
    versions = {name: source.version(name) for name in names}
    unknown = [name for name in names if name not in known or known[name].version != versions[name]]
    found = _digest(unknown, source)
    fresh = {name: _Known(version, found[name]) for name in unknown if (version := versions[name]) and found[name]}
    if store and keep and fresh:
        _write(store, source, known | fresh)
    return [found[name] if name in found else known[name].sha256 for name in names]


def _digest(names: list[str], source: ImageSource) -> dict[str, str]:
    def digest(name: str) -> str:
        try:
            return hashlib.sha256(source.read(name)).hexdigest()
        except MissingImage:
            return ""

    found: dict[str, str] = {}
    if not names:
        return found
    progress = Progress("checking images", len(names))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            found |= zip(some, pool.map(digest, some), strict=True)
            progress.advance(len(some))
    return found


def _path(store: ArtifactStore, source: ImageSource) -> str:
    return store.path("image_digests", f"{hashlib.sha256(source.place.encode()).hexdigest()}.parquet")


def _read(store: ArtifactStore, source: ImageSource) -> dict[str, _Known]:
    try:
        table = pq.read_table(io.BytesIO(store.files.read(_path(store, source))), schema=_SCHEMA)
    except (FileNotFoundError, pa.ArrowException):  # none yet, or damaged: it only saves time
        return {}
    columns = [table[name].to_pylist() for name in _SCHEMA.names]
    return {name: _Known(version, sha256) for name, version, sha256 in zip(*columns, strict=True)}


def _write(store: ArtifactStore, source: ImageSource, known: dict[str, _Known]) -> None:
    rows = [(name, *digest) for name, digest in known.items()]
    content = io.BytesIO()
    pq.write_table(pa.table(list(zip(*rows, strict=True)), schema=_SCHEMA), content, compression="zstd")
    store.files.write(_path(store, source), content.getvalue())
