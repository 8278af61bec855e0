import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline_lib.store import ArtifactStore, Manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of its own process, so that killing a run does not kill the server, as in real life."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        for _ in range(1800):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.1)  # waiting for a port, with a limit
        else:
            pytest.fail("the Prefect server did not start within three minutes")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="session")
def run(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, list[str], str]]:
    """`run(recipe, moment)` -> exit status (negative: killed), addresses it began to publish, its log."""

    def call(recipe: Path, moment: str = "never", **extra: str) -> tuple[int, list[str], str]:
        journal = tmp_path_factory.mktemp("journal") / "journal.txt"
        journal.write_text("")
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.run_and_die", str(recipe), moment, str(journal)],
            cwd=ROOT,
            env=os.environ | {"PREFECT_API_URL": prefect_server} | extra,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        return done.returncode, journal.read_text().split(), done.stderr

    return call


def digests(store: Path) -> dict[str, str]:
    """Digest of every stage's artifact in a store, by address; all of them whole."""
    artifacts = ArtifactStore(str(store))
    found = {}
    for stage in artifacts.children("steps"):
        for key in artifacts.children(f"steps/{stage}"):
            manifest = artifacts.lookup(f"steps/{stage}/{key}")
            assert isinstance(manifest, Manifest), f"{stage}/{key}: {manifest}"
            assert artifacts.verify(f"steps/{stage}/{key}") == []
            found[f"steps/{stage}/{key}"] = manifest.digest
    return found
