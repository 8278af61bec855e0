"""Publish, find and verify artifacts.

The state after a hard crash: files in an attempt folder that no manifest names. They are invisible to every reader;
the stage runs again and publishes under a new attempt. The manifest is created last and only if there is none, so of
two runs that compute one key exactly one publishes, and both use what it published.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib import schemas
from pipeline_lib.errors import StoreError
from pipeline_lib.store.manifest import FileEntry, Manifest, environment, sha256_file

log = logging.getLogger("whyscore.store")


@dataclass(frozen=True)
class Miss:
    """No usable artifact at an address, and why."""

    reason: str


ABSENT = Miss("not computed yet")


@dataclass
class Attempt:
    """A local folder to write an artifact's files into, before they are published."""

    folder: Path
    rows: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def write_table(self, name: str, table: pa.Table, schema: pa.Schema, *, extra_columns: bool = False) -> None:
        """Write `<name>.parquet` in the given schema and note its rows for the manifest."""
        path = self.folder / f"{name}.parquet"
        try:
            self.rows[name] = schemas.write_parquet(path, table, schema, extra_columns=extra_columns)
        except OSError as error:
            raise StoreError(
                f"cannot write {path} ({error}); make room there, or set TMPDIR to another folder"
            ) from error


class ArtifactStore:
    """Immutable artifacts below one root folder.

    Addresses are folders relative to the root: `steps/<stage>/<key>`, and below it `shards/..` and `checkpoints/..`
    for what a long stage has finished so far.
    """

    def __init__(self, url: str):
        if "://" in url and not url.startswith("file://"):
            raise StoreError(f"store {url}: only a local folder can be a store so far; give a path")
        self.root = os.path.abspath(url.removeprefix("file://"))
        self.fs = fsspec.filesystem("file")

    def path(self, address: str, *parts: str) -> str:
        """Full path of an address inside the store."""
        return "/".join([self.root, address, *parts])

    def check_writable(self) -> None:
        """Raise `StoreError` unless a file can be written, read back, and refused when it exists already."""
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            self.fs.makedirs(self.root, exist_ok=True)
            if not self._create_if_absent(self.path(probe), b"whyscore"):
                raise StoreError(f"store {self.root}: a fresh file could not be created")
            again = self._create_if_absent(self.path(probe), b"again")
            if again or self.fs.cat_file(self.path(probe)) != b"whyscore":
                raise StoreError(f"store {self.root}: a file was overwritten; two runs at once would not be safe here")
        except OSError as error:
            raise StoreError(f"store {self.root} cannot be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                self.fs.rm_file(self.path(probe))

    def lookup(self, address: str) -> Manifest | Miss:
        """The manifest when the artifact is complete (every file present with its size), else the reason it is not."""
        manifest_path = self.path(address, "manifest.json")
        try:
            text = self.fs.cat_file(manifest_path)
        except FileNotFoundError:
            return ABSENT
        except OSError as error:
            raise StoreError(f"cannot read {manifest_path}: {error}") from error
        try:
            manifest = Manifest.model_validate_json(text)
        except ValueError:
            return Miss("damaged: its manifest cannot be read")
        if manifest.schema_version != schemas.VERSION:
            return Miss(f"written in schema version {manifest.schema_version}, this is version {schemas.VERSION}")
        for name, entry in manifest.files.items():
            try:
                size = self.fs.size(self.path(address, manifest.attempt, name))
            except FileNotFoundError:
                return Miss(f"damaged: {name} is missing")
            if size != entry.size:
                return Miss(f"damaged: {name} has {size} bytes instead of {entry.size}")
        return manifest

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """A temporary local folder for one attempt at an artifact; removed in the end, whatever happened."""
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
            schema_version=schemas.VERSION,
            files=files,
            rows=attempt.rows,
            arguments=arguments,
            seconds=round(time.monotonic() - attempt.started, 3),
            **environment(),
        )
        try:
            with self._writing(address):
                for file in files:
                    self._put(attempt.folder / file, self.path(address, name, file))
                published = self._create_manifest(address, manifest)
        except StoreError:
            self._remove_attempt(address, name)
            raise
        if published.attempt != name:
            self._remove_attempt(address, name)
            log.info("%s was published by another run meanwhile; using that one", address)
        return published

    def fetch(self, address: str, to: Path) -> Manifest:
        """Copy an artifact's files into a local folder and check every digest; raises `StoreError` on damage."""
        manifest = self._hit(address)
        for name, entry in manifest.files.items():
            local = to / name
            local.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(self.path(address, manifest.attempt, name), str(local))
            self._check(address, name, entry, sha256_file(local))
        return manifest

    def read_table(self, address: str, name: str) -> pa.Table:
        """Read `<name>.parquet` of an artifact, its digest checked; raises `StoreError` when missing or damaged."""
        manifest = self._hit(address)
        file = f"{name}.parquet"
        if file not in manifest.files:
            raise StoreError(f"{address} has no {file}; it has {', '.join(manifest.files)}")
        content = self.fs.cat_file(self.path(address, manifest.attempt, file))
        self._check(address, file, manifest.files[file], hashlib.sha256(content).hexdigest())
        return pq.read_table(pa.BufferReader(content))

    def verify(self, address: str) -> list[str]:
        """Check every digest of an artifact; returns what is wrong, nothing when all is well."""
        manifest = self.lookup(address)
        if isinstance(manifest, Miss):
            return [manifest.reason]
        wrong = []
        for name, entry in manifest.files.items():
            with self.fs.open(self.path(address, manifest.attempt, name), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != entry.sha256:
                wrong.append(f"damaged: {name} has sha256 {digest[:12]}.. instead of {entry.sha256[:12]}..")
        return wrong

    def children(self, address: str) -> list[str]:
        """Names of the folders below an address, sorted; an empty list when there are none."""
        try:
            found = self.fs.ls(self.path(address), detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory")

    def addresses(self) -> Iterator[str]:
        """Every artifact in the store, shards and checkpoints included, sorted."""
        for path in sorted(self.fs.find(self.root)):
            folder, _, name = path.rpartition("/")
            if name == "manifest.json":
                yield folder.removeprefix(self.root + "/")

    def retract(self, address: str) -> None:
        """Remove an artifact, its manifest first, so that no reader ever sees a manifest without its files."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(address, "manifest.json"))
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.path(address), recursive=True)

    def write_pointer(self, path: str, value: dict[str, Any]) -> None:
        """Write a small JSON file for people, e.g. `runs/demo/iteration-02/score_pairs.json`; the newest wins."""
        full = self.path(path)
        temporary = f"{full}.{uuid.uuid4().hex[:8]}"
        with self._writing(path):
            self.fs.makedirs(os.path.dirname(full), exist_ok=True)
            self.fs.pipe_file(temporary, (json.dumps(value, indent=2) + "\n").encode())
            self.fs.mv(temporary, full)

    def copy_out(self, address: str, path: str) -> None:
        """Copy an artifact's files to a folder of the store for people, e.g. `runs/demo/report`; the newest wins."""
        manifest = self._hit(address)
        for name in manifest.files:
            target = self.path(path, name)
            temporary = f"{target}.{uuid.uuid4().hex[:8]}"
            with self._writing(path):
                self.fs.makedirs(os.path.dirname(target), exist_ok=True)
                self.fs.cp_file(self.path(address, manifest.attempt, name), temporary)
                self.fs.mv(temporary, target)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turn the operating system's refusal into an error that says what to do."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot publish {what} in {self.root}: {error.strerror or error}. Nothing of it is in the store;"
                " make room or give another runtime.store and run again"
            ) from error

    def _hit(self, address: str) -> Manifest:
        manifest = self.lookup(address)
        if isinstance(manifest, Miss):
            raise StoreError(f"{address} in {self.root}: {manifest.reason}; run the recipe again to compute it")
        return manifest

    def _check(self, address: str, name: str, entry: FileEntry, digest: str) -> None:
        if digest != entry.sha256:
            raise StoreError(
                f"{self.path(address)}: {name} is damaged (sha256 {digest[:12]}.., published as {entry.sha256[:12]}..);"
                f" remove that folder and run the recipe again"
            )

    def _create_manifest(self, address: str, manifest: Manifest) -> Manifest:
        content = manifest.model_dump_json(indent=2).encode()
        while not self._create_if_absent(self.path(address, "manifest.json"), content):
            with self._alone(address):  # else a run could remove what another one has just put in its place
                present = self.lookup(address)
                if isinstance(present, Manifest):
                    return present
                if present != ABSENT:
                    log.warning("%s: replacing an artifact that is %s", address, present.reason)
                    with contextlib.suppress(FileNotFoundError):
                        self.fs.rm_file(self.path(address, "manifest.json"))
        return manifest

    @contextlib.contextmanager
    def _alone(self, address: str) -> Iterator[None]:
        """Keep other processes out of here while one replaces an artifact; the lock ends with its process."""
        folder = os.open(self.path(address), os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _create_if_absent(self, path: str, content: bytes) -> bool:
        """Create a file with all its content at once; False when it exists already."""
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex[:8]}"
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # atomic, and fails when the path exists
            return True
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def _put(self, local: Path, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with local.open("rb") as source, open(path, "xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())

    def _remove_attempt(self, address: str, name: str) -> None:
        shutil.rmtree(self.path(address, name), ignore_errors=True)
