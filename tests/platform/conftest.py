"""The real stack, once for all platform tests: PostgreSQL, a Prefect server, two workers, all of them processes."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from deployments.settings import client_environment, create_settings

ROOT = Path(__file__).resolve().parents[2]

slow = pytest.mark.only_with("--platform")


class Stack(NamedTuple):
    """A stack in a folder of its own, on free ports."""

    folder: Path
    settings: dict[str, str]

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.settings['PREFECT_PORT']}/api"

    def environment(self) -> dict[str, str]:
        """What a process needs to use the stack."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {**kept, **client_environment(self.settings), "PREFECT_HOME": str(self.folder / "client")}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m deployments.stack <arguments>` for this stack."""
        return self.python("-m", "deployments.stack", *arguments, "--folder", str(self.folder))

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A Python process that reaches the stack."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=400, check=False, env=self.environment(),
        )  # fmt: skip


@pytest.fixture(scope="session")
def started_stack() -> Iterator[Stack]:
    # Not below pytest's own folder: PostgreSQL may run as another user than the tests, whom that keeps out.
    with tempfile.TemporaryDirectory(prefix="whyscore-platform-") as name:
        base = Path(name)
        base.chmod(0o755)
        ports = dict(zip(("PREFECT_PORT", "POSTGRES_PORT"), map(str, _free_ports(2)), strict=True))
        store = {"WHYSCORE_STORE": str(base / "store")}
        stack = Stack(base / "stack", create_settings(base / "stack", GPUS="", CPU_RUNS="3", **ports, **store))
        up = stack.command("up")
        try:
            assert up.returncode == 0, up.stdout + up.stderr + _logs(stack.folder)
            yield stack
        finally:
            down = stack.command("down")
        assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture
def stack(started_stack: Stack) -> Iterator[Stack]:
    """The running stack; Prefect's client in this process reaches it."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with temporary_settings(
        {PREFECT_API_URL: started_stack.api, PREFECT_API_AUTH_STRING: started_stack.settings["PREFECT_AUTH_STRING"]}
    ):
        yield started_stack


@pytest.fixture(scope="session")
def deployed(started_stack: Stack) -> list[str]:
    """What `whyscore deploy` said."""
    done = started_stack.python("-m", "whyscore.cli", "deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def read_run(run_id: UUID) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition gives once it is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _logs(folder: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("logs/*.log")))
