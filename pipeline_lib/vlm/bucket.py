"""Models in a bucket (s3://bucket/prefix): copied once to a local folder.

The name of a copy is a digest of the bucket's files with their sizes and versions, so changed files make another copy
and a model in use never changes. An incomplete copy is a folder that ends in .partial, where the next process
continues. A crash leaves at worst such a folder.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.errors import ModelError, S3Error
from pipeline_lib.progress import Progress
from pipeline_lib.store.s3_files import reading
from pipeline_lib.vlm.weights import MODEL_FILES

log = logging.getLogger("whyscore.model")

CHUNK_BYTES = 16 << 20


class RemoteFile(NamedTuple):
    """A file of a model in a bucket; `version` changes when its content does."""

    name: str
    size: int
    version: str


def fetch_folder(url: str) -> Path:
    """Copy a model's files to a local folder, if they are not there yet, and return that folder.

    Raises `ModelError` when the bucket cannot be read or holds no model there.
    """
    if not url.startswith("s3://"):
        raise ModelError(f"model.id {url} cannot be read: expected a hub id, a local directory or s3://bucket/prefix")
    url = url.rstrip("/")
    with _explained(url):
        files = _list(url)
        if "config.json" not in {file.name for file in files}:
            raise ModelError(f"model.id {url} has no config.json, so it is no saved model; check the bucket and prefix")
        listing = "\n".join(f"{file.name} {file.size} {file.version}" for file in files)
        key = hashlib.sha256(f"{url}\n{listing}".encode()).hexdigest()[:16]
        folder = cache_folder() / f"{url.rsplit('/', 1)[-1]}-{key}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.with_name(folder.name + ".lock")):
                if not folder.is_dir():
                    _copy(url, files, folder)
    return folder


def cache_folder() -> Path:
    """The folder of all copies."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "whyscore" / "models"


def _list(url: str) -> list[RemoteFile]:
    return sorted(
        RemoteFile(name, entry.size, entry.etag)
        for name, entry in reading().entries(url, below=False).items()
        if any(fnmatch(name, part) for part in MODEL_FILES)
    )


def _copy(url: str, files: list[RemoteFile], folder: Path) -> None:
    bucket = reading()
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(exist_ok=True)
    total = sum(file.size for file in files)
    log.info("copying %s (%.1f GB) to %s", url, total / 1e9, folder)
    progress = Progress("copying the model", total >> 20, "MiB")
    for file in files:
        with (partial / file.name).open("ab") as target:
            # What a killed process wrote is kept but for its last chunk, which may not have reached the disk; the
            # folder's name says that the file in the bucket is still the same.
            at = max(0, min(target.tell(), file.size) - 1) // CHUNK_BYTES * CHUNK_BYTES
            target.truncate(at)
            progress.skip(at >> 20)
            while at < file.size:
                chunk = bucket.read_part(f"{url}/{file.name}", at, min(at + CHUNK_BYTES, file.size))
                if not chunk:
                    raise ModelError(f"{url}: {file.name} ended at {at} of {file.size} bytes; run again")
                target.write(chunk)
                at += len(chunk)
                target.flush()
                os.fsync(target.fileno())
                progress.advance(len(chunk) >> 20)
    if _list(url) != files:
        raise ModelError(f"{url} was changed while it was copied; remove {partial} and run again when it is complete")
    partial.rename(folder)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with its process
        yield


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        raise ModelError(f"model.id {url} cannot be read: {error.code}: {error.why}") from error
    except FileNotFoundError as error:
        raise ModelError(f"{url} was changed while it was copied; run again when it is complete") from error
    except OSError as error:
        raise ModelError(f"model.id {url} cannot be copied to {cache_folder()}: {error}") from error
