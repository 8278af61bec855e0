"""Runs whose process or machine dies: they don't stay Running, hold no slot, and start again by themselves."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from deployments.processes import kill_marked
from tests.platform.conftest import ROOT, Stack, read_run, slow, wait_for

pytestmark = slow


@pytest.fixture
def run_sleeper(stack: Stack, deployed: list[str], tmp_path: Path) -> Any:
    """Start the sleeping flow in the GPU pool, where one run at a time is allowed; returns its id."""
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("sleeper")
        deployment = client.create_deployment(
            flow_id=flow_id, name="sleeper", work_pool_name="gpu", entrypoint="tests/platform/sleeper.py:sleeper",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            tags=["whyscore", "restart-when-crashed"],
        )  # fmt: skip

    def start(sleeps: int) -> Any:
        run = run_deployment(deployment, parameters={"folder": str(tmp_path), "sleeps": sleeps}, timeout=0)
        return run.id  # type: ignore[union-attr]

    return start


def states(run_id: Any) -> list[str]:
    """Names of all states that a run had."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return [state.name or "" for state in client.read_flow_run_states(run_id)]


def test_a_killed_flow_process_starts_again(run_sleeper: Any, tmp_path: Path) -> None:
    run_id = run_sleeper(1)
    wait_for((tmp_path / "start-1").exists, 120, "the run starts")
    os.kill(int((tmp_path / "start-1").read_text()), signal.SIGKILL)
    wait_for(lambda: read_run(run_id).state.is_completed(), 120, "the run starts again and finishes")
    assert read_run(run_id).run_count == 2
    assert "Crashed" in states(run_id)
    assert "AwaitingRetry" in states(run_id)


def test_a_run_of_a_lost_machine_is_crashed_and_starts_again(stack: Stack, run_sleeper: Any, tmp_path: Path) -> None:
    run_id = run_sleeper(1)
    wait_for((tmp_path / "start-1").exists, 120, "the run starts")
    wait_for(lambda: read_run(run_id).state.is_running(), 60, "the run is Running")
    kill_marked(stack.folder, "worker-gpu-0")  # worker and run at once: nobody is left to tell the server
    wait_for(lambda: not read_run(run_id).state.is_running(), 200, "missing heartbeats are noticed")
    wait_for(lambda: read_run(run_id).state.is_completed(), 120, "another worker finishes it")
    crashed = [name for name in states(run_id) if name == "Crashed"]
    assert len(crashed) == 1
    assert read_run(run_id).run_count == 2


def test_a_run_that_always_crashes_is_left_crashed(run_sleeper: Any, tmp_path: Path) -> None:
    run_id = run_sleeper(10)
    for start in range(1, 5):
        wait_for((tmp_path / f"start-{start}").exists, 120, f"start {start}")
        wait_for(lambda: read_run(run_id).state.is_running(), 60, "the run is Running")
        os.kill(int((tmp_path / f"start-{start}").read_text()), signal.SIGKILL)
        wait_for(lambda: not read_run(run_id).state.is_running(), 60, "the worker notices")
    wait_for(lambda: read_run(run_id).state.is_crashed(), 60, "it stays crashed")
    with pytest.raises(AssertionError, match="not within"):
        wait_for((tmp_path / "start-5").exists, 60, "a fifth start")
    assert read_run(run_id).state.is_crashed()
