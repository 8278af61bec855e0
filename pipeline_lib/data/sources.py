"""Sources of image files: a local folder, a bucket, or the rows of Parquet files."""

import errno
import posixpath
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pipeline_lib.data import files


class MissingImage(Exception):
    """There is no such image, with the reason; any other failure of a source is a `DataError`."""


class ImageSource(Protocol):
    """Reads an image's file by its name in the table; safe in threads and after a fork."""

    def read(self, image: str) -> bytes:
        """The whole file. Raises `MissingImage` when it is not there, `DataError` when the storage fails."""

    def size(self, image: str) -> int | None:
        """Bytes of the file, None when it is not there; cheap enough for every image of a table."""

    def names(self) -> Iterable[str]:
        """The names directly in the source, to find a file whose name in a table is written differently."""


class LocalFolder:
    """Image files below a folder."""

    def __init__(self, root: str):
        self.root = Path(root)

    def read(self, image: str) -> bytes:
        """The file below the folder; a file that this user may not read counts as missing."""
        try:
            return (self.root / image).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise MissingImage(error.strerror or str(error)) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise MissingImage(error.strerror) from None
            # E.g. a network drive that does not answer, or too many open files: no fault of this image.
            raise files.unreachable(str(self.root / image), error) from error

    def size(self, image: str) -> int | None:
        """One `stat`."""
        try:
            return (self.root / image).stat().st_size
        except OSError:
            return None

    def names(self) -> Iterable[str]:
        """The names directly in the folder."""
        return files.list_folder(str(self.root))


class Bucket:
    """Image objects below an S3 prefix."""

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    def read(self, image: str) -> bytes:
        """The object; only "not found" means missing, so that an outage never makes the data set smaller."""
        path = f"{self.root}/{posixpath.normpath(image)}"
        try:
            return files.access(path).read(path)
        except FileNotFoundError:
            raise MissingImage("No such object") from None
        except Exception as error:
            raise files.unreachable(path, error) from error

    @cached_property
    def _sizes(self) -> dict[str, int]:
        # A listing gives a thousand sizes a request, a HEAD gives one.
        try:
            return files.access(self.root).sizes(self.root)
        except Exception as error:
            raise files.unreachable(self.root, error) from error

    def size(self, image: str) -> int | None:
        """From one listing of the prefix, made at the first call."""
        return self._sizes.get(posixpath.normpath(image))

    def names(self) -> Iterable[str]:
        """Everything below the prefix."""
        return self._sizes.keys()


def folder_source(root: str) -> ImageSource:
    """The source for a local folder or an s3:// prefix."""
    return Bucket(root) if files.is_remote(root) else LocalFolder(root)


def is_safe(image: str) -> bool:
    """Whether a name stays inside the image folder."""
    path = image.replace("\\", "/")
    return not path.startswith("/") and ".." not in path.split("/")
