"""A real Dask cluster on loopback: a scheduler and two workers, all of them processes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """A scheduler and its workers of one thread; what they print is in `*.log`, the workers' journals beside them."""

    def __init__(self, folder: Path, allowed_failures: int):
        self.folder = folder
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "WHYSCORE_TEST_JOURNAL": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures),
        }
        scheduler_file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(scheduler_file),
        )  # fmt: skip
        until(scheduler_file.exists)
        self.address: str = json.loads(scheduler_file.read_text())["address"]

    def start_worker(self) -> None:
        """One more, without waiting for it."""
        self.workers.append(
            self._start(
                f"worker-{len(self.workers)}", "distributed.cli.dask_worker", self.address, "--nthreads", "1",
                "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--local-directory", str(self.folder),
                "--preload", "tests.cluster.worker",
            )
        )  # fmt: skip

    def wait_for_workers(self) -> None:
        """Until all that were started are known to the scheduler."""
        log = self.folder / "scheduler.log"
        until(lambda: log.read_text().count("Register worker") >= len(self.workers))

    def kill(self) -> None:
        """Everything."""
        for process in [self.scheduler, *self.workers]:
            if process:
                process.kill()
                process.wait()

    def journals(self) -> dict[int, list[str]]:
        """What each worker published and loaded, by its process."""
        return {int(file.stem): file.read_text().split() for file in self.folder.glob("*.journal")}

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=self._environment,
            )  # fmt: skip


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server with a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@contextlib.contextmanager
def processes(folder: Path, workers: int, allowed_failures: int = 3) -> Iterator[Cluster]:
    """A cluster; a shard whose workers died more often than `allowed_failures` is given up."""
    cluster = Cluster(folder, allowed_failures)
    try:
        for _ in range(workers):
            cluster.start_worker()
        cluster.wait_for_workers()
        yield cluster
    finally:
        cluster.kill()


def until(happened: Callable[[], bool], patience_s: float = 180.0) -> None:
    """Wait for something; what does not happen within three minutes fails the test."""
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < patience_s, "it did not happen"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers, for all tests of a file; the one that kills one of them comes last."""
    with processes(tmp_path_factory.mktemp("cluster"), workers=2) as started:
        yield started
