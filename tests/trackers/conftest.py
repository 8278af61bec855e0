"""A real MLflow server on loopback, a process of its own that a test may stop and start again."""

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NEEDED = "mlflow"  # the whole package: mlflow-skinny has no server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """Its database is a file of its own, so that it keeps what it was told when it is started again."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return
            assert time.monotonic() < until and self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def everything(self) -> bytes:
        """All bytes that it keeps: its database and the files that it was sent."""
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def mlflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    try:
        importlib.metadata.version(NEEDED)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {NEEDED} is not installed; docs/testing.md says how")
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(mlflow_process: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The server, running, as the environment names it; with an experiment of this test alone."""
    import mlflow

    if mlflow_process.process is None:
        mlflow_process.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_process.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"test {time.time_ns()}")
    mlflow.set_tracking_uri(mlflow_process.url)
    return mlflow_process


def entries() -> list[Any]:
    """The MLflow runs of this test's experiment."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def points(run_id: str, metric: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, as the server keeps them."""
    import mlflow

    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, metric)]
