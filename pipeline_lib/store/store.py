"""Publish, find and verify artifacts.

The state after a hard crash: files in an attempt folder that no manifest names. They are invisible to every reader;
the stage runs again and publishes under a new attempt. The manifest is created last and only if there is none, so of
two runs that compute one key exactly one publishes, and both use what it published.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline_lib.addresses import secret_in
from pipeline_lib.errors import LostArtifactError, StoreError
from pipeline_lib.store.description import Description
from pipeline_lib.store.local_files import LocalFiles
from pipeline_lib.store.manifest import (
    LAST_SCHEMA_VERSION,
    FileEntry,
    Manifest,
    OutsideError,
    environment,
    inside,
    sha256_file,
)
from pipeline_lib.tables.table import Table, other_version, write_parquet

log = logging.getLogger("whyscore.store")

T = TypeVar("T")


@dataclass(frozen=True)
class Miss:
    """No usable artifact at an address, and why."""

    reason: str


LEAST_FREE_BYTES = 1 << 30
"""A run does not begin with less: adapters, checkpoints and shards would soon not fit."""

_CHECKED: set[str] = set()
"""Files whose digest this process has checked; an attempt's files never change."""

ABSENT = Miss("not computed yet")


@dataclass
class Attempt:
    """A local folder to write an artifact's files into, before they are published."""

    folder: Path
    rows: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    scratch: set[str] = field(default_factory=set)  # folders of shards and checkpoints that it is computed from
    device: str | None = None  # what its model runs on
    device_count: int = 1
    started: float = field(default_factory=time.monotonic)

    def write_table(
        self, table: Table, rows: pa.Table, *, file: str | None = None, extra_columns: bool = False
    ) -> None:
        """Write `<file>.parquet` (by default the table's name) and note version and rows for the manifest.

        Raises `StoreError` when the rows do not fit the table's schema, or cannot be written.
        """
        file = file or table.name
        path = self.folder / f"{file}.parquet"
        try:
            self.rows[file] = write_parquet(path, rows, table.schema, extra_columns=extra_columns)
            self.tables[table.name] = table.version
        except OSError as error:
            raise StoreError(
                f"cannot write {path} ({error}); free space there, or set TMPDIR to another folder"
            ) from error


class ArtifactStore:
    """Immutable artifacts below one root folder.

    Addresses are folders relative to the root: `steps/<stage>/<key>`, and below it `shards/..` and `checkpoints/..`
    for what a long stage has finished so far; `scratch/<what>/<key>/shards/..` where several stages share the shards.
    `pipeline_lib.store.runs` manages `runs/<name>/`.
    """

    def __init__(self, url: str):
        """A folder (a path, `file://`) or a bucket with an optional prefix (`s3://bucket/prefix`)."""
        if secret := secret_in(url):
            raise StoreError(f"store: {secret}")
        if url.startswith("s3://"):
            from pipeline_lib.store.s3_files import S3Files

            self.files: LocalFiles | S3Files = S3Files(url)
        elif "://" in url and not url.startswith("file://"):
            raise StoreError(f"store {url}: give a local folder or s3://bucket/prefix")
        else:
            self.files = LocalFiles(url.removeprefix("file://"))

    @property
    def root(self) -> str:
        """Absolute path of the folder, or the s3:// address."""
        return self.files.root

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder of this machine."""
        return isinstance(self.files, LocalFiles)

    def path(self, address: str, *parts: str) -> str:
        """Full path of an address inside the store; raises `StoreError` when it would lie outside."""
        try:
            return f"{self.root}/{inside('/'.join([address, *parts]))}"
        except OutsideError as error:
            raise StoreError(f"store {self.root}: {error}, so nothing is read or written there") from error

    def check_writable(self) -> None:
        """Raise `StoreError` unless a file can be written, read back, and refused when it exists already."""
        probe, created = self.path(f"probe-{uuid.uuid4().hex}"), False
        try:
            self.files.reach(self.root)
            created = self.files.create_if_absent(probe, b"whyscore")
            again = self.files.create_if_absent(probe, b"again")
            if not created or again or self.files.read(probe) != b"whyscore":
                raise StoreError(
                    f"store {self.root} overwrote a file that it was told to create only if absent; two runs at once"
                    " would not be safe here (an S3 server must support If-None-Match on PUT)"
                )
        except OSError as error:
            raise StoreError(f"store {self.root} cannot be written: {error.strerror or error}") from error
        finally:
            if created:
                with contextlib.suppress(OSError, StoreError):
                    self.files.remove(probe)

    def check_space(self) -> None:
        """Raise `StoreError` when the disk of a folder is nearly full; the space of a bucket is not known."""
        free = self.describe().free_bytes if self.is_local else None
        if free is not None and free < LEAST_FREE_BYTES:
            raise StoreError(
                f"{self.root} has {free / 1e9:.1f} GB free, at least {LEAST_FREE_BYTES / 1e9:.1f} GB are needed; make"
                " room or set runtime.store to another disk"
            )

    def describe(self) -> Description:
        """The store's address and facts, without writing; raises `StoreError` when a bucket does not answer."""
        if isinstance(self.files, LocalFiles):
            folder = next(path for path in (Path(self.root), *Path(self.root).parents) if path.exists())
            return Description(self.root, None, None, shutil.disk_usage(folder).free)
        self.files.reach(self.root)
        return Description(self.root, self.files.endpoint, self.files.clock_skew_s(self.root), None)

    def unfinished_uploads(self, older_than_days: float, *, remove: bool = False) -> list[str]:
        """Keys of a bucket's uploads that were begun so long ago and never completed; none in a folder.

        A killed upload of a large file leaves its parts: no listing shows them, and they take space until removed.
        """
        if isinstance(self.files, LocalFiles):
            return []
        found = self.files.unfinished_uploads(self.root, older_than_days)
        for upload in found if remove else []:
            self.files.abort_upload(self.root, upload)
        return [upload.key for upload in found]

    def lookup(self, address: str) -> Manifest | Miss:
        """The manifest if it is of this address and every file is present with its size, else the reason."""
        manifest_path = self.path(address, "manifest.json")
        try:
            text = self.files.read(manifest_path)
        except FileNotFoundError:
            return ABSENT
        except OSError as error:
            raise StoreError(f"cannot read {manifest_path}: {error}") from error
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            said = [str(found["ctx"]["error"]) for found in error.errors() if found["type"] == "value_error"]
            return Miss(f"damaged: its manifest cannot be {f'used: {said[0]}' if said else 'read'}")
        if manifest.seal is None and not manifest.files:  # of an earlier version, whose stages all had files
            return Miss("damaged: its manifest has no files")
        if manifest.address != address:
            return Miss(f"damaged: its manifest is that of {manifest.address}")
        if manifest.schema_version not in (None, LAST_SCHEMA_VERSION):
            return Miss(f"written in schema version {manifest.schema_version}, this reads {LAST_SCHEMA_VERSION}")
        if difference := other_version(manifest.tables):
            return Miss(difference)
        damage = self._damage(address, manifest)
        return Miss(f"damaged: {damage}") if damage else manifest

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """A temporary local folder for one attempt at an artifact; always removed in the end."""
        with tempfile.TemporaryDirectory(prefix="whyscore-") as folder:
            yield Attempt(Path(folder))

    def publish(self, address: str, attempt: Attempt, arguments: dict[str, Any]) -> Manifest:
        """Copy the attempt's files into the store, then create the manifest; returns the manifest that counts.

        When another run has published the same address meanwhile, its artifact is kept and returned.
        Raises `StoreError` when the store cannot take the files (full, read-only); nothing is published then.
        """
        name = uuid.uuid4().hex[:12]
        files = {
            path.relative_to(attempt.folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
            for path in sorted(attempt.folder.rglob("*"))
            if path.is_file()
        }
        manifest = Manifest(
            address=address,
            attempt=name,
            files=files,
            tables=attempt.tables,
            rows=attempt.rows,
            scratch=sorted(attempt.scratch),
            arguments=arguments,
            seconds=round(time.monotonic() - attempt.started, 3),
            published=datetime.now(UTC).isoformat(timespec="seconds"),
            device=attempt.device,
            device_count=attempt.device_count,
            **environment(),
        ).sealed()
        try:
            with self._writing(address):
                for file in files:
                    self.files.put(self.path(address, name, file), attempt.folder / file)
                self._check_arrived(address, manifest)
                published = self._create_manifest(address, manifest)
        except StoreError:
            with contextlib.suppress(StoreError):  # removing may fail too
                self.files.remove_folder(self.path(address, name))
            raise
        if published.attempt != name:
            self.files.remove_folder(self.path(address, name))
            log.info("another run has published %s meanwhile; its artifact is used", address)
        return published

    def fetch(self, address: str, to: Path) -> Manifest:
        """Copy an artifact's files into a local folder and check every digest; raises as `read_file` does."""
        manifest = self._hit(address)
        for name in manifest.files:
            local = to / name
            local.parent.mkdir(parents=True, exist_ok=True)
            self._whole(manifest, name, partial(self._get, local), sha256_file)
        return manifest

    def _get(self, local: Path, path: str) -> Path:
        self.files.get(path, local)
        return local

    def read_file(self, address: str, name: str) -> bytes:
        """A file of an artifact, its digest checked.

        Raises `LostArtifactError` when the artifact is not there, or when the file is damaged in the store; a damaged
        artifact is removed first. Raises `StoreError` when the artifact has no such file, or it cannot be read.
        """
        return self._content(self._hit(address), name)

    def file(self, address: str, name: str) -> str:
        """Full path of a file of an artifact, for readers that take a part of it; raises as `read_file` does.

        Its digest is checked once in a process.
        """
        manifest = self._hit(address)
        if name not in manifest.files:
            raise StoreError(f"{address} has no {name}; it has {', '.join(manifest.files)}")
        path = self.path(address, manifest.attempt, name)
        if path not in _CHECKED:
            self._whole(manifest, name, self.files.sha256, str)
            _CHECKED.add(path)
        return path

    def read_table(self, address: str, name: str) -> pa.Table:
        """`<name>.parquet` of an artifact; raises as `read_file` does."""
        return pq.read_table(pa.BufferReader(self.read_file(address, f"{name}.parquet")))

    def verify(self, address: str) -> list[str]:
        """Check every digest of an artifact; returns the problems, none if all is well. Nothing is removed."""
        manifest = self.lookup(address)
        if isinstance(manifest, Miss):
            return [manifest.reason]
        wrong = []
        for name, entry in manifest.files.items():
            digest = self.files.sha256(self.path(address, manifest.attempt, name))
            if digest != entry.sha256:
                wrong.append(f"damaged: {name} has sha256 {digest[:12]}.. instead of {entry.sha256[:12]}..")
        return wrong

    def children(self, address: str) -> list[str]:
        """Names of the folders below an address, sorted; an empty list when there are none."""
        return self.files.folders(self.path(address))

    def addresses(self) -> Iterator[str]:
        """Every artifact in the store, shards and checkpoints included, sorted."""
        for path in sorted(self.files.sizes(self.root)):
            folder, _, name = path.rpartition("/")
            if name == "manifest.json":
                yield folder

    def retract(self, address: str, *, others: bool = True) -> None:
        """Remove an artifact, its manifest first, so that no reader ever sees a manifest without its files.

        Everything below its address is removed too; without `others`, files that other runs are writing there stay.
        """
        found = None if others else self.lookup(address)
        self.files.remove(self.path(address, "manifest.json"))
        if others:
            self.files.remove_folder(self.path(address))
        elif isinstance(found, Manifest):
            self.files.remove_folder(self.path(address, found.attempt))

    def write_pointer(self, path: str, value: dict[str, Any]) -> None:
        """Write a small JSON file for people, e.g. `runs/demo/iteration-02/score_pairs.json`; the newest wins."""
        with self._writing(path):
            self.files.write(self.path(path), (json.dumps(value, indent=2) + "\n").encode())

    def create_pointer(self, path: str, value: dict[str, Any]) -> bool:
        """Write a small JSON file unless there is one; returns False if there is one, which stays.

        For exactly one winner among writers, each must write other content: in a bucket, a writer that finds its own
        content takes it for its own write, whose answer was lost.
        """
        with self._writing(path):
            return self.files.create_if_absent(self.path(path), (json.dumps(value, indent=2) + "\n").encode())

    def read_pointer(self, path: str) -> dict[str, Any] | None:
        """The content of a small JSON file; None when there is none, or when it is damaged."""
        try:
            value = json.loads(self.files.read(self.path(path)))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def pointers(self, folder: str) -> list[str]:
        """Names of the small JSON files below a folder, sorted."""
        return sorted(name for name in self.files.sizes(self.path(folder)) if name.endswith(".json"))

    def copy_out(
        self, address: str, path: str, change: Callable[[str, bytes], bytes] = lambda _name, content: content
    ) -> None:
        """Copy an artifact's files to a folder of the store for people, e.g. `runs/demo/report`; the newest wins.

        `change(name, content)` gives what a copy holds instead. Raises as `read_file` does, before a file is replaced.
        """
        manifest = self._hit(address)
        contents = {name: self._content(manifest, name) for name in manifest.files}
        with self._writing(path):
            for name, content in contents.items():
                self.files.write(self.path(path, name), change(name, content))

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turn an error of the operating system into a `StoreError` with advice."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot publish {what} in {self.root}: {error.strerror or error}. The store holds nothing of it;"
                " free space or set another runtime.store and run again"
            ) from error

    def _hit(self, address: str) -> Manifest:
        manifest = self.lookup(address)
        if isinstance(manifest, Miss):
            raise LostArtifactError(
                address, f"{address} in {self.root}: {manifest.reason}; run the recipe again to compute it"
            )
        return manifest

    def _damage(self, address: str, manifest: Manifest) -> str | None:
        """The first file that is missing or has another size."""
        sizes = self.files.sizes(self.path(address, manifest.attempt))
        for name, entry in manifest.files.items():
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != entry.size:
                return f"{name} has {sizes[name]} bytes instead of {entry.size}"
        return None

    def _check_arrived(self, address: str, manifest: Manifest) -> None:
        if damage := self._damage(address, manifest):
            raise StoreError(f"{self.root}: after the upload of {address}, {damage}; nothing was published, run again")

    def _content(self, manifest: Manifest, name: str) -> bytes:
        if name not in manifest.files:
            raise StoreError(f"{manifest.address} has no {name}; it has {', '.join(manifest.files)}")
        return self._whole(manifest, name, self.files.read, lambda content: hashlib.sha256(content).hexdigest())

    def _whole(self, manifest: Manifest, name: str, read: Callable[[str], T], digest: Callable[[T], str]) -> T:
        """A file with the digest that it was published with.

        A second read tells damage in the store, where both reads give the same wrong bytes, from damage on the way.
        """
        path, wanted = self.path(manifest.address, manifest.attempt, name), manifest.files[name].sha256
        found = []
        for second in (False, True):
            try:
                value = read(path)
                found.append(digest(value))
            except FileNotFoundError:
                found.append("none: the file is missing")
            except OSError as error:
                raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
            if found[-1] == wanted:
                if second:
                    log.warning("%s was damaged on its way; a second read was right", path)
                return value
        if len(set(found)) > 1:
            raise StoreError(
                f"{path}: two reads gave different bytes, and neither those that were published. Nothing was removed;"
                " check the disk, the memory of this machine and the way to the store, and run again"
            )
        raise self._removed(manifest, f"{name} is damaged (sha256 {found[0][:26]}, published as {wanted[:26]})")

    def _removed(self, manifest: Manifest, why: str) -> LostArtifactError:
        """The error for a damaged artifact, which is removed unless another run has replaced it."""
        address = manifest.address
        folder, what = self.path(address), f"{self.path(address)}: {why}"
        try:
            with self.files.alone(folder):  # else a run could remove what another one has computed meanwhile
                present = self.lookup(address)
                if isinstance(present, Manifest) and present.attempt == manifest.attempt:
                    self.files.remove(self.path(address, "manifest.json"))
            self.files.remove_folder(self.path(address, manifest.attempt))
        except (OSError, StoreError) as error:
            raise StoreError(f"{what}. It cannot be removed ({error}); remove that folder and run again") from error
        log.warning("%s. The artifact was removed", what)
        return LostArtifactError(address, f"{what}. It was removed; run the recipe again to compute it")

    def _create_manifest(self, address: str, manifest: Manifest) -> Manifest:
        content = manifest.model_dump_json(indent=2).encode()
        path = self.path(address, "manifest.json")
        while not self.files.create_if_absent(path, content):
            with self.files.alone(self.path(address)):  # else a run could remove another run's new manifest
                present = self.lookup(address)
                if isinstance(present, Manifest):
                    return present
                if present != ABSENT:
                    log.warning("%s: replacing an artifact that is %s", address, present.reason)
                    self.files.remove(path)
        return manifest
