"""A real Dask cluster on loopback: a scheduler and two workers, all of them processes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prefect.testing.utilities import prefect_test_harness

ROOT = Path(__file__).resolve().parents[2]


class Cluster(NamedTuple):
    """The scheduler's address, and the folder where its workers keep their journals."""

    address: str
    folder: Path

    def journals(self) -> dict[int, list[str]]:
        """What each worker published and loaded, by its process."""
        return {int(file.stem): file.read_text().split() for file in self.folder.glob("*.journal")}


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server with a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@contextlib.contextmanager
def processes(folder: Path, workers: int) -> Iterator[Cluster]:
    """A scheduler and so many workers of one thread; what they print is in `*.log`."""
    scheduler_file, started = folder / "scheduler.json", []
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "WHYSCORE_TEST_JOURNAL": str(folder),
        "PREFECT_HOME": str(folder / "prefect"),
    }

    def start(name: str, *command: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment
                )
            )

    try:
        start("scheduler", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
              "--scheduler-file", str(scheduler_file))  # fmt: skip
        until(scheduler_file.exists)
        address = json.loads(scheduler_file.read_text())["address"]
        for number in range(workers):
            start(f"worker-{number}", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
                  "--no-dashboard", "--memory-limit", "0", "--local-directory", str(folder),
                  "--preload", "tests.cluster.worker")  # fmt: skip
        until(lambda: (folder / "scheduler.log").read_text().count("Register worker") >= workers)
        yield Cluster(address, folder)
    finally:
        for process in started:
            process.kill()
            process.wait()


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
