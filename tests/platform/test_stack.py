"""The stack by itself, and what `whyscore deploy` registers on it."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from deployments.settings import create_settings
from deployments.stack import running, state_of, up
from tests.platform.conftest import Stack, slow, wait_for


def test_it_is_up_and_a_second_up_changes_nothing(stack: Stack) -> None:
    supervisor = running(stack.folder)
    again = stack.command("up")
    assert again.returncode == 0, again.stderr
    assert running(stack.folder) == supervisor is not None
    assert set(state_of(stack.folder).values()) == {"healthy"}
    assert list(state_of(stack.folder)) == ["postgres", "prefect-server", "worker-cpu-0", "worker-gpu-0"]
    assert stack.settings["PREFECT_PORT"] in again.stdout


def test_a_port_that_is_taken_is_named_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        create_settings(tmp_path, PREFECT_PORT=str(other.getsockname()[1]), POSTGRES_PORT="1")
        with pytest.raises(SystemExit, match=f"port {other.getsockname()[1]} is taken.*set PREFECT_PORT"):
            up(tmp_path)


def test_the_server_refuses_who_does_not_sign_in(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{stack.api}/flows/count", data=b"{}")
    assert refused.value.code == 401


def test_the_ui_that_asks_other_hosts_is_not_where_people_land(stack: Stack) -> None:
    page = urllib.request.urlopen(
        urllib.request.Request(stack.api.removesuffix("/api"), headers={"Accept": "text/html"})
    )
    assert "/v2" not in page.url


@slow
def test_a_service_that_dies_is_started_again(stack: Stack) -> None:
    from deployments.processes import kill_marked, marked

    before = set(marked(stack.folder, "worker-cpu-0"))
    kill_marked(stack.folder, "worker-cpu-0")
    wait_for(lambda: set(marked(stack.folder, "worker-cpu-0")) - before, 30, "a new worker")
    wait_for(lambda: set(state_of(stack.folder).values()) == {"healthy"}, 120, "all healthy")


@slow
def test_down_leaves_no_process_and_up_finds_everything_again(stack: Stack, deployed: list[str]) -> None:
    from deployments.processes import marked

    assert stack.command("down").returncode == 0
    assert marked(stack.folder) == []
    assert running(stack.folder) is None
    assert stack.command("down").returncode == 0
    assert stack.command("up").returncode == 0
    assert {item["name"] for item in _all(stack, "deployments")} >= {"self_improve", "gpu_stage"}


@slow
def test_deploying_twice_registers_everything_once(stack: Stack, deployed: list[str]) -> None:
    again = stack.python("-m", "whyscore.cli", "deploy")
    assert again.returncode == 0, again.stderr
    ours = {"self_improve", "ablation", "gpu_stage", "watch_base_model"}
    assert sorted(item["name"] for item in _all(stack, "deployments") if item["name"] in ours) == sorted(ours)
    automations = [item["name"] for item in _all(stack, "automations")]
    assert len(automations) == len(set(automations)) == 3
    pools = {item["name"]: item["type"] for item in _all(stack, "work_pools")}
    assert pools == {"cpu": "process", "gpu": "process"}


@slow
def test_the_schedule_makes_runs(stack: Stack, deployed: list[str]) -> None:
    def scheduled() -> bool:
        return any(run["auto_scheduled"] for run in _all(stack, "flow_runs"))

    wait_for(scheduled, 120, "the next runs of watch_base_model")


@slow
def test_the_form_has_shipped_recipes_limits_and_descriptions(stack: Stack, deployed: list[str]) -> None:
    found = next(item for item in _all(stack, "deployments") if item["name"] == "self_improve")
    schema = found["parameter_openapi_schema"]
    choices, form = (schema["definitions"][name] for name in ("ShippedRecipe", "SelfImproveRecipe"))
    assert {"demo", "paper/ava_llava-1.5-7b"} <= set(choices["enum"])
    assert form["properties"]["iterations"]["minimum"] == 1
    assert "wrong score" in schema["definitions"]["Generation"]["properties"]["min_distance"]["description"]
    assert "shipped recipe" in schema["properties"]["recipe"]["description"]
    assert found["parameters"]["store"] == stack.settings["WHYSCORE_STORE"]


def _all(stack: Stack, what: str) -> list[dict[str, Any]]:
    import base64

    token = base64.b64encode(stack.settings["PREFECT_AUTH_STRING"].encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{stack.api}/{what}/filter", b"{}", headers)
    with urllib.request.urlopen(request) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found
