"""Models in a bucket (s3://bucket/prefix): copied once to a local folder.

A copy is named by the list of the bucket's files with their sizes and versions, so that changed files make another
copy and a model in use is never touched. It gets its name when all its files are there; until then it is a folder that
ends in .partial, where the next process goes on. After a crash there is at worst such a folder.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from botocore.exceptions import BotoCoreError

from pipeline_lib.errors import ModelError
from pipeline_lib.progress import Progress
from pipeline_lib.vlm.weights import MODEL_FILES

log = logging.getLogger("whyscore.model")

CHUNK_BYTES = 16 << 20


class RemoteFile(NamedTuple):
    """A file of a model in a bucket; `version` changes when its content does."""

    path: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """Name of the file in its folder."""
        return self.path.rsplit("/", 1)[-1]


def fetch_folder(url: str) -> Path:
    """Copy a model's files to a local folder, if they are not there yet, and return that.

    Raises `ModelError` when the bucket cannot be read or holds no model there.
    """
    with _explained(url):
        fs, root = fsspec.core.url_to_fs(url)
        files = _list(fs, root)
        if "config.json" not in {file.name for file in files}:
            raise ModelError(f"model.id {url}: there is no config.json, so it is no saved model; is the prefix right?")
        listing = "\n".join(f"{file.name} {file.size} {file.version}" for file in files)
        key = hashlib.sha256(f"{url.rstrip('/')}\n{listing}".encode()).hexdigest()[:16]
        folder = cache_folder() / f"{root.rstrip('/').rsplit('/', 1)[-1]}-{key}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.with_name(folder.name + ".lock")):
                if not folder.is_dir():
                    _copy(fs, files, folder, url)
    return folder


def cache_folder() -> Path:
    """Where copies are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "whyscore" / "models"


def _list(fs: Any, root: str) -> list[RemoteFile]:
    fs.invalidate_cache()
    found = [
        RemoteFile(entry["name"], entry["size"], _version(entry))
        for entry in fs.ls(root, detail=True)
        if entry["type"] == "file" and any(fnmatch(entry["name"].rsplit("/", 1)[-1], part) for part in MODEL_FILES)
    ]
    return sorted(found)


def _version(entry: dict[str, Any]) -> str:
    known = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "created")
    return next((str(entry[name]) for name in known if entry.get(name) is not None), "")


def _copy(fs: Any, files: list[RemoteFile], folder: Path, url: str) -> None:
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
                chunk = fs.cat_file(file.path, start=at, end=min(at + CHUNK_BYTES, file.size))
                if not chunk:
                    raise ModelError(f"{url}: {file.name} ended at {at} of {file.size} bytes; run again")
                target.write(chunk)
                at += len(chunk)
                target.flush()
                os.fsync(target.fileno())
                progress.advance(len(chunk) >> 20)
    if _list(fs, files[0].path.rsplit("/", 1)[0]) != files:
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
    except ModelError:
        raise
    except FileNotFoundError as error:
        raise ModelError(f"model.id {url}: there is nothing; check the bucket and the prefix ({error})") from error
    except PermissionError as error:
        raise ModelError(f"model.id {url}: these credentials may not read it ({error})") from error
    except (OSError, BotoCoreError, ImportError, ValueError) as error:
        raise ModelError(
            f"model.id {url} cannot be read: {error}. S3 credentials come from the usual places (AWS_ACCESS_KEY_ID,"
            " ~/.aws/credentials, the machine's role), another server from AWS_ENDPOINT_URL_S3"
        ) from error
