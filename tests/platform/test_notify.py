"""A webhook is told of runs that end and of runs that wait: a real receiver, called by the real server."""

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from deployments import notify
from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import WhyScoreError
from tests.platform.conftest import Stack, read_run, slow, wait_for


class Receiver(NamedTuple):
    url: str
    told: list[str]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Receiver(f"http://127.0.0.1:{server.server_port}/hook/a-secret", told)
        server.shutdown()


@pytest.mark.parametrize("url", ["hooks.example/x", "ftp://hooks.example", "https://", "", "None"])
def test_what_is_no_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(WhyScoreError, match="--notify: give the address") as refused:
        notify.register_notifications(url)
    assert "hooks.example" not in str(refused.value)


@slow
@pytest.mark.timeout(600)
def test_a_finished_run_is_told_with_its_verdict_and_a_failed_one_with_its_error(
    stack: Stack, deployed: list[str], receiver: Receiver, small_run: Path, tmp_path: Path
) -> None:
    from prefect.deployments import run_deployment

    done = stack.python("-m", "whyscore.cli", "deploy", "--notify", receiver.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "automation WhyScore: tell that a run ended" in done.stdout and "a-secret" not in done.stdout
    shutil.copytree(small_run / "store", tmp_path / "store")
    fields = load_recipe(small_run / "small.yaml").model_dump(mode="json")
    finished: Any = run_deployment(
        "self_improve/self_improve", parameters={"recipe": fields, "store": str(tmp_path / "store")}, timeout=0
    )
    wrong = {"recipe": "demo", "overrides": {"iterations": 0, "name": 'quote"and\\'}}
    failed: Any = run_deployment("self_improve/self_improve", parameters=wrong, timeout=0)
    wait_for(lambda: len(receiver.told) == 2, 300, f"both are told of: {receiver.told}")
    failure, success = sorted(receiver.told, key=lambda text: "small" in text)
    state = read_run(finished.id).state
    assert state.is_completed() and state.message.startswith("Can this model tell good images from bad ones? ")
    ui = stack.api.removesuffix("/api")
    assert success == f"small (self_improve): Completed\n{state.message}\n{ui}/runs/flow-run/{finished.id}"
    assert failure.startswith('quote"and\\ (self_improve): Failed\n') and "iterations" in failure
    assert failure.endswith(str(failed.id))
    done = stack.python("-m", "whyscore.cli", "deploy", "--notify", "none")
    assert "no WhyScore: tell that a run ended" in done.stdout


@slow
@pytest.mark.timeout(300)
def test_a_run_that_waits_is_told_of_once(
    stack: Stack, deployed: list[str], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate
    from prefect.deployments import run_deployment
    from prefect.states import Cancelled

    soon = notify.automations(None)
    for automation in soon:
        automation["trigger"]["within"] = 10 if automation["trigger"]["posture"] == "Proactive" else 0
    monkeypatch.setattr(
        notify,
        "automations",
        lambda block: [{**item, "actions": [{**item["actions"][0], "block_document_id": block}]} for item in soon],
    )
    with get_client(sync_client=True) as client:
        client.update_work_pool("cpu", WorkPoolUpdate(is_paused=True))
        try:
            notify.register_notifications(receiver.url)
            run: Any = run_deployment("self_improve/self_improve", parameters={"recipe": "demo"}, timeout=0)
            wait_for(lambda: receiver.told, 120, "the waiting run is told of")
            assert receiver.told[0].startswith(f"{run.name} (self_improve, demo) waits: Late in the pool cpu")
            client.set_flow_run_state(run.id, Cancelled(), force=True)
            wait_for(lambda: len(receiver.told) > 1, 60, "its end is told of")
            assert receiver.told[1].startswith(f"{run.name} (self_improve): Cancelled") and len(receiver.told) == 2
        finally:
            client.update_work_pool("cpu", WorkPoolUpdate(is_paused=False))
            notify.register_notifications(notify.NONE)
