"""Local files, those of a store or of a user, with the methods of `S3Files`."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from pipeline_lib.store.manifest import sha256_file

T = TypeVar("T")


class LocalFiles:
    """Paths are absolute in a store. A file is seen whole or not at all, also after the machine lost power."""

    def __init__(self, root: str):
        self.root = os.path.abspath(root)

    def reach(self, path: str) -> None:
        """Create the folder if it does not exist."""
        os.makedirs(path, exist_ok=True)

    def read(self, path: str) -> bytes:
        """All bytes of a file; raises `FileNotFoundError`."""
        return Path(path).read_bytes()

    def with_file(self, path: str, read: Callable[[BinaryIO], T]) -> T:
        """The result of `read` on an open file; raises `FileNotFoundError`."""
        with open(path, "rb") as file:
            return read(file)

    def is_folder(self, path: str) -> bool:
        """Whether a path is a folder."""
        return os.path.isdir(path)

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders directly in a folder, sorted; empty when there is no such folder."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(folder))
        return []

    def sha256(self, path: str) -> str:
        """Sha256 of a file's bytes, in hex; raises `FileNotFoundError`."""
        return sha256_file(Path(path))

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every file below a folder, by its path relative to the folder; empty when there is none."""
        found = {}
        for at, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(at, name)
                with contextlib.suppress(FileNotFoundError):  # another process's temporary file
                    found[os.path.relpath(path, folder)] = os.path.getsize(path)
        return found

    def times(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size, and when it was last written in seconds of the epoch, of every file below a folder; see `sizes`."""
        found = {}
        for at, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(at, name)
                with contextlib.suppress(FileNotFoundError):
                    facts = os.stat(path)
                    found[os.path.relpath(path, folder)] = (facts.st_size, facts.st_mtime)
        return found

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly below a folder, sorted; as in a bucket, an empty one does not count."""
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and os.listdir(entry.path))
        return []

    def create_if_absent(self, path: str, content: bytes) -> bool:
        """Create a file with all its content at once; False when it exists already."""
        with self._beside(path) as temporary:
            self._store(temporary, content)
            try:
                os.link(temporary, path)  # atomic, and fails when the path exists
            except FileExistsError:
                return False
            return True

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a small file at once."""
        with self._beside(path) as temporary:
            self._store(temporary, content)
            os.replace(temporary, path)

    def put(self, path: str, local: Path) -> None:
        """Copy a local file into the store, under a path that nobody else writes."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with local.open("rb") as source, open(path, "xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())

    def get(self, path: str, local: Path) -> None:
        """Copy a file of the store to a local path."""
        shutil.copyfile(path, local)

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens when it is gone already."""
        Path(path).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with its content; nothing happens when it is gone already."""
        shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def alone(self, folder: str) -> Iterator[None]:
        """Lock a folder against other processes of this machine; the lock ends with its process."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _beside(self, path: str) -> Iterator[str]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex[:8]}"
        try:
            yield temporary
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _store(self, path: str, content: bytes) -> None:
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
