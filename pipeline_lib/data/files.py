"""Tables and lists as whole files, in a local folder or on S3 by the same path-taking functions.

S3 credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ..).
"""

import posixpath
from typing import Any

import fsspec

from pipeline_lib.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".jp2", ".ppm")
"""Which files of a folder are taken for images; one that is named itself may end in anything."""


def is_remote(path: str) -> bool:
    """Whether a path is on S3; anything else that looks like a URL is refused."""
    if "://" in path and not path.startswith("s3://"):
        raise DataError(f"{path}: expected a local path or s3://bucket/key")
    return path.startswith("s3://")


def filesystem(path: str) -> Any:
    """The fsspec filesystem of a path.

    Asked for at every use, never kept: fsspec gives all threads of a process the same S3 client, and a forked process
    one of its own. Listings are not cached, because a bucket changes under a long-lived process.
    """
    return fsspec.filesystem("s3", use_listings_cache=False) if is_remote(path) else fsspec.filesystem("file")


def join(folder: str, name: str) -> str:
    """A file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if folder != "/" else f"/{name}"


def parent(path: str) -> str:
    """The folder that a file is in."""
    return posixpath.dirname(path) or "."


def ending(path: str) -> str:
    """The ending of a file name in lower case, with its dot."""
    return posixpath.splitext(path)[1].lower()


def is_folder(path: str) -> bool:
    """Whether a path is a folder, or an S3 prefix that objects lie under."""
    try:
        return bool(filesystem(path).isdir(path))
    except Exception as error:
        raise unreachable(path, error) from error


def list_folder(path: str) -> list[str]:
    """The names of what lies in a folder itself, in order; a folder that is not there has none."""
    try:
        found = filesystem(path).ls(path, detail=False)
    except FileNotFoundError:
        return []
    except Exception as error:
        raise unreachable(path, error) from error
    return sorted(posixpath.basename(str(name).rstrip("/")) for name in found)


def pictures(folder: str) -> list[str]:
    """The names of the images in a folder itself, in order, by their endings."""
    return [name for name in list_folder(folder) if ending(name) in PICTURES]


def read_file(path: str) -> bytes:
    """The content of a table or list. Raises `DataError` when it is not there or cannot be read."""
    try:
        return bytes(filesystem(path).cat_file(path))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except Exception as error:
        raise unreachable(path, error) from error


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 text file without white space around them; blank ones stay, so that numbers are right."""
    try:
        return [line.strip() for line in read_file(path).decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def label_file(table: str, *names: str) -> str:
    """`table` itself when it is a file; in a folder, the first of the usual names that is there."""
    if not is_folder(table):
        return table
    there = set(list_folder(table))
    for name in names:
        if name in there:
            return join(table, name)
    raise DataError(f"{table}: expected {' or '.join(names)} in it, found {', '.join(sorted(there)[:5]) or 'nothing'}")


def unreachable(path: str, error: Exception) -> DataError:
    """What to say when storage itself fails, which never means that a file is not there."""
    hint = "; check the AWS_* variables, the bucket's permissions and the network" if path.startswith("s3://") else ""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"{path} cannot be read: {reason}{hint}")
