"""A user's tables, lists and images: functions that take a local or an s3:// path and raise `DataError`."""

import codecs
import errno
import logging
import os
import posixpath
import re
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from pipeline_lib.addresses import secret_in
from pipeline_lib.errors import DataError, S3Error
from pipeline_lib.store.local_files import LocalFiles

if TYPE_CHECKING:
    from pipeline_lib.store.s3_files import S3Files

log = logging.getLogger("whyscore.data")

T = TypeVar("T")

_LINE_END = re.compile(r"\r\n|\n|\r")
"""Not what else `splitlines` takes for one: a name may hold U+2028 or U+0085."""

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".tif", ".tiff",
    ".bmp", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
)  # fmt: skip
"""Files of a folder that end so are images; a file that is named itself may end in anything."""


def is_remote(path: str) -> bool:
    """Whether a path is on S3; anything else that looks like a URL is refused, and what holds a secret."""
    if secret := secret_in(path):
        raise DataError(secret)
    if "://" in path and not path.startswith("s3://"):
        raise DataError(f"{path}: expected a local path or s3://bucket/key")
    return path.startswith("s3://")


def access(path: str) -> "LocalFiles | S3Files":
    """The methods to read and write a path; ask for them at every use (see `s3_files.reading`)."""
    if not is_remote(path):
        return LocalFiles("/")
    from pipeline_lib.store.s3_files import reading

    return reading()


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
        return access(path).is_folder(path)
    except Exception as error:
        raise unreachable(path, error) from error


def list_folder(path: str) -> list[str]:
    """The names of the files and folders directly in a folder, sorted; empty when there is no such folder."""
    try:
        return access(path).names(path)
    except Exception as error:
        raise unreachable(path, error) from error


def list_below(folder: str) -> list[str]:
    """The names of all files below a folder, sorted, with the folders between; links to folders are not followed."""
    if is_remote(folder):
        from pipeline_lib.store.s3_files import reading

        try:
            return sorted(reading().entries(folder))
        except Exception as error:
            raise unreachable(folder, error) from error
    found = [(os.path.relpath(at, folder), name) for at, _, names in os.walk(folder) for name in names]
    return sorted(name if at == "." else f"{at}/{name}" for at, name in found)


def image_names(folder: str) -> list[str]:
    """The names of the images directly in a folder, by their endings, sorted."""
    return [name for name in list_folder(folder) if ending(name) in IMAGE_ENDINGS]


def refuse_endless(path: str) -> None:
    """Raise `OSError` for a local path that has no end or waits for a writer: a pipe, a device, a socket."""
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "it is not a regular file")


def read_file(path: str) -> bytes:
    """The content of a table or list. Raises `DataError` when it is not there or cannot be read."""
    try:
        if not is_remote(path):
            refuse_endless(path)
        return access(path).read(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except Exception as error:
        raise unreachable(path, error) from error


def with_file(path: str, read: Callable[[BinaryIO], T]) -> T:
    """The result of `read` on an open file; of a large file on S3 only the parts that `read` asks for are fetched."""
    return access(path).with_file(path, read)


def decode_text(content: bytes) -> tuple[str, str]:
    """A text file's content, and a sentence about its encoding if that is a guess.

    UTF-8, UTF-16 with its mark, or else Windows-1252, in which Excel saves CSV in Western Europe. Raises
    `UnicodeDecodeError` when it is none of them.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16"), ""
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            raise error from None
    seen = next(sign for sign in text if ord(sign) > 127)
    return text, f"it is not UTF-8 and is read as Windows-1252, so that its first special character is {seen!r}"


def read_lines(path: str) -> list[str]:
    """The lines of a text file, stripped; blank ones stay, so that line numbers are right."""
    try:
        text, guess = decode_text(read_file(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if guess:
        log.info("%s: %s", path, guess)
    return [line.strip() for line in _LINE_END.split(text)]


def label_file(table: str, *names: str) -> str:
    """`table` itself when it is a file; in a folder, the first of the usual names that exists."""
    if not is_folder(table):
        return table
    there = set(list_folder(table))
    for name in names:
        if name in there:
            return join(table, name)
    raise DataError(f"{table}: expected {' or '.join(names)} in it, found {', '.join(sorted(there)[:5]) or 'nothing'}")


def write_file(path: str, content: bytes) -> None:
    """Create or replace a file at once, and its folder if needed. Raises `DataError` when it cannot be written."""
    path = path if is_remote(path) else os.path.abspath(path)
    try:
        access(path).write(path, content)
    except (OSError, S3Error) as error:
        raise DataError(f"{path} cannot be written: {_reason(error)}") from error


def unreachable(path: str, error: Exception) -> DataError:
    """The error for storage that fails, which never means that a file does not exist."""
    return DataError(f"{path} cannot be read: {_reason(error)}")


def _reason(error: Exception) -> str:
    said = f"{error.code}: {error.why}" if isinstance(error, S3Error) else getattr(error, "strerror", None)
    return said or str(error) or type(error).__name__
