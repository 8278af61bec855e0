"""A real Dask cluster on loopback: a scheduler and two workers, all of them processes."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client

from tests.forked import Forked, ForkServer

PATIENCE_S = 300.0


class Cluster:
    """A scheduler and its workers of one thread; what they print is in `*.log`, the workers' journals beside them."""

    def __init__(self, forks: ForkServer, folder: Path, allowed_failures: int):
        self.folder = folder
        self.scheduler: Forked | None = None
        self.workers: list[Forked] = []
        self._forks = forks
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
        if self.workers:
            with Client(self.address, set_as_default=False) as client:
                client.wait_for_workers(len(self.workers), timeout=PATIENCE_S)

    def kill(self) -> None:
        """Everything."""
        for process in [self.scheduler, *self.workers]:
            if process:
                process.kill()
                process.wait()

    def journals(self) -> dict[int, list[str]]:
        """What each worker published and loaded, by its process."""
        return {int(file.stem): file.read_text().split() for file in self.folder.glob("*.journal")}

    def _start(self, name: str, module: str, *arguments: str) -> Forked:
        log = self.folder / f"{name}.log"
        return self._forks.start(module, *arguments, environment=self._environment, log=log)


@contextlib.contextmanager
def processes(forks: ForkServer, folder: Path, workers: int, allowed_failures: int = 3) -> Iterator[Cluster]:
    """A cluster; a shard whose workers died more often than `allowed_failures` is given up."""
    cluster = Cluster(forks, folder, allowed_failures)
    try:
        for _ in range(workers):
            cluster.start_worker()
        cluster.wait_for_workers()
        yield cluster
    finally:
        cluster.kill()


def until(happened: Callable[[], bool]) -> None:
    """Wait for something; what does not happen within minutes fails the test."""
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < PATIENCE_S, "it did not happen"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers, for all tests of a file; the one that kills one of them comes last."""
    with processes(forks, tmp_path_factory.mktemp("cluster"), workers=2) as started:
        yield started
