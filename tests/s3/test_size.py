"""Many keys and large files on a real S3 server, and exactly one winner."""

import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing import s3_server as server
from tests.s3.conftest import ROOT
from tests.unit.store.test_artifact_store import AT

pytestmark = pytest.mark.only_with("--demo-size")


def test_every_key_is_listed_and_read_after_it_was_written(store: ArtifactStore) -> None:
    count = 10_000  # a page holds 1,000
    names = [f"{n % 7}/{n:05d} {'ü' if n % 2 else '+'}.txt" for n in range(count)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.files.write(store.path("many", name), name.encode()), names))
    assert store.files.sizes(store.path("many")) == {name: len(name.encode()) for name in names}
    assert store.children("many") == [str(n) for n in range(7)]
    assert store.files.read(store.path("many", names[-1])) == names[-1].encode()
    store.files.remove_folder(store.path("many"))
    assert store.files.sizes(store.root) == {}


def test_many_folders_are_all_children(store: ArtifactStore) -> None:
    count = 2_100
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: store.files.write(store.path(f"many/{n:05d}/x"), b"x"), range(count)))
    assert store.children("many") == [f"{n:05d}" for n in range(count)]


def test_a_large_file_goes_there_and_back(store: ArtifactStore, tmp_path: Path) -> None:
    size = 200_000_000
    content = os.urandom(size)
    with store.attempt() as attempt:
        (attempt.folder / "weights.bin").write_bytes(content)
        store.publish(AT, attempt, {})
    assert store.verify(AT) == []
    store.fetch(AT, tmp_path)
    assert hashlib.sha256((tmp_path / "weights.bin").read_bytes()).digest() == hashlib.sha256(content).digest()


def test_of_many_writers_exactly_one_creates(store: ArtifactStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        for n in range(10):
            path = store.path(f"race/{n}")
            contents = [f"writer {writer}".encode() for writer in range(8)]
            created = list(pool.map(lambda content, path=path: store.files.create_if_absent(path, content), contents))
            assert sum(created) == 1
            assert store.files.read(path) == contents[created.index(True)]


def test_nothing_of_a_server_outlives_it(real_server: object) -> None:
    for end in ("stdin", signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline_lib.testing.s3_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin and process.stdout and b"folder" in process.stdout.readline()
        folders = list(Path("/tmp").glob(f"{server.FOLDER}{process.pid}-*"))
        daemons = psutil.Process(process.pid).children()
        assert len(daemons) == 3 and len(folders) == 1
        if isinstance(end, str):
            process.stdin.close()
        else:
            process.send_signal(end)
        process.wait(60)
        psutil.wait_procs(daemons, timeout=10)
        assert not any(daemon.is_running() for daemon in daemons)
        if end == signal.SIGKILL:
            server._remove_leftovers()  # as the next start does
        assert not folders[0].exists()
