"""Where image files come from: a local folder, a bucket, or the rows of Parquet files."""

import errno
import posixpath
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pipeline_lib.data import files


class MissingImage(Exception):
    """There is no such image, said in words; any other trouble of a source is a `DataError`."""


class ImageSource(Protocol):
    """Gives an image's file by its name in the table; safe in threads and after a fork."""

    def read(self, image: str) -> bytes:
        """The whole file. Raises `MissingImage` when it is not there, `DataError` when the storage fails."""

    def size(self, image: str) -> int | None:
        """Bytes of the file, None when it is not there; cheap enough to ask for every image of a table."""

    def names(self) -> Iterable[str]:
        """The names directly in the source, to find a file whose name is written otherwise in a table."""


class LocalFolder:
    """Image files below a folder."""

    def __init__(self, root: str):
        self.root = Path(root)

    def read(self, image: str) -> bytes:
        """The file below the folder; one that this user may not read counts as missing, with its reason."""
        try:
            return (self.root / image).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise MissingImage(error.strerror or str(error)) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise MissingImage(error.strerror) from None
            # A network drive that is away, too many open files: nothing that this image could help.
            raise files.unreachable(str(self.root / image), error) from error

    def size(self, image: str) -> int | None:
        """One `stat`."""
        try:
            return (self.root / image).stat().st_size
        except OSError:
            return None

    def names(self) -> Iterable[str]:
        """What lies in the folder itself."""
        return files.list_folder(str(self.root))


class Bucket:
    """Image objects below an S3 prefix."""

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    def read(self, image: str) -> bytes:
        """The object; only "not found" is missing, so that an outage is never taken for a smaller data set."""
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
        """From one listing of the prefix, which is made when first asked."""
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
