"""Sources of image files: a local folder, a bucket, or the rows of Parquet files."""

import errno
import os
import posixpath
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pipeline_lib.data import files
from pipeline_lib.tables.images import MADE_PREFIX

SETTLED_S = 2.0
"""A file that changed so recently may change again without another time: some file systems count in steps of 2 s."""


class MissingImage(Exception):
    """There is no such image, with the reason; any other failure of a source is a `DataError`."""


class ImageSource(Protocol):
    """Reads an image's file by its name in the table; safe in threads and after a fork."""

    def read(self, image: str) -> bytes:
        """The whole file. Raises `MissingImage` when it is not there, `DataError` when the storage fails."""

    @property
    def place(self) -> str:
        """Where the images are; two places never have the same one."""

    def version(self, image: str) -> str | None:
        """A text that changes with the file, cheap enough for every image of a table.

        None when it is not known: there is no such file, or it is being written.
        """

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

    @property
    def place(self) -> str:
        """The absolute path of the folder."""
        return os.path.abspath(self.root)

    def version(self, image: str) -> str | None:
        """Size and times of the file, from one `stat`."""
        return file_version(os.path.join(self.root, image))

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
    def _versions(self) -> dict[str, str]:
        from pipeline_lib.store.s3_files import reading

        # A listing gives a thousand entries a request, a HEAD gives one.
        try:
            return {name: f"{entry.size} {entry.etag}" for name, entry in reading().entries(self.root).items()}
        except Exception as error:
            raise files.unreachable(self.root, error) from error

    @property
    def place(self) -> str:
        """The prefix."""
        return self.root

    def version(self, image: str) -> str | None:
        """Size and ETag, from one listing of the prefix, made at the first call."""
        return self._versions.get(posixpath.normpath(image))

    def names(self) -> Iterable[str]:
        """Everything below the prefix."""
        return self._versions.keys()


class WithMade:
    """Image files of a user, and those of images that a stage made, whose names begin with `MADE_PREFIX`."""

    def __init__(self, own: ImageSource, made: ImageSource):
        self.own, self.made = own, made

    def _of(self, image: str) -> ImageSource:
        return self.made if image.startswith(MADE_PREFIX) else self.own

    def read(self, image: str) -> bytes:
        """The file, from where it is."""
        return self._of(image).read(image)

    @property
    def place(self) -> str:
        """Both places."""
        return f"{self.own.place}\n{self.made.place}"

    def version(self, image: str) -> str | None:
        """That of the file's own place."""
        return self._of(image).version(image)

    def names(self) -> Iterable[str]:
        """The names in both."""
        return [*self.own.names(), *self.made.names()]


def folder_source(root: str) -> ImageSource:
    """The source for a local folder or an s3:// prefix."""
    return Bucket(root) if files.is_remote(root) else LocalFolder(root)


def file_version(path: str | Path) -> str | None:
    """Size, time of the last writing and of the last change of a local file, which no program can set back.

    None when there is no such file, or it changed less than `SETTLED_S` ago.
    """
    try:
        facts = os.stat(path)
    except OSError:
        return None
    if time.time() - max(facts.st_mtime, facts.st_ctime) < SETTLED_S:
        return None
    return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def is_safe(image: str) -> bool:
    """Whether a name stays inside the image folder."""
    path = image.replace("\\", "/")
    return not path.startswith("/") and ".." not in path.split("/")
