"""What the Prefect server is told of a run, read back from it."""

import base64
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from tasks.stage import cards
from tests.flows.conftest import listen
from tests.flows.test_resume import STAGES


def shown(flow_run_id: Any) -> dict[str, Any]:
    """The artifacts of a flow run by their keys."""
    cards.flush()
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=chosen)}


def key(stage: str) -> str:
    return "small-" + stage.replace("_", "-").replace(" ", "-")


def test_every_stage_of_a_run_has_a_card_cached_or_computed(again, prefect_server):
    from flows.self_improve import self_improve

    store = ArtifactStore(again.runtime.store)
    (merged,) = store.children("steps/ties_merge")
    store.retract(f"steps/ties_merge/{merged}")
    newest = store.read_pointer("runs/small/iteration-02/merged/predictions.json")["address"]
    store.retract(newest)
    with listen("whyscore.run") as lines:
        found = shown(self_improve(again, return_state=True).state_details.flow_run_id)
    bar = found.pop("small-whole-run")
    assert float(bar.data) == 100.0 and bar.description.startswith(f"{len(STAGES)} of {len(STAGES)} stages are done; ")
    hours = "(under )?[0-9.]+ device hours without a GPU"
    # the shards of the evaluation are there, so neither of the two needed a model
    cost = f"computed 2 stages and took {len(STAGES) - 2} stages from the store, which saved {hours}$"
    assert re.search(f"this run {cost}", bar.description)
    left = [line for line in lines if "stages are done" in line]
    assert left[0].startswith(f"{len(STAGES) - 1} of {len(STAGES)} stages are done; left: about ")
    assert left[0].endswith(" for 1 stage") and left[1:] == [f"{len(STAGES)} of {len(STAGES)} stages are done"]
    assert any(line.startswith("this run computed 2 stages") for line in lines)
    assert set(found) == {"small-recipe", "small-results", "small-verdict", "small-report-link", *map(key, STAGES)}
    assert found["small-verdict"].data.startswith("**Can this model tell good images from bad ones? ")
    page = Path(store.root) / "runs/small/report/report.html"
    assert page.exists() and f"[Report]({page.as_uri()})" in found["small-report-link"].data
    assert found["small-report-link"].description == found["small-verdict"].description
    assert "iterations: 2" in found["small-recipe"].data and "ite-2 merged" in found["small-results"].data
    computed = {name for name, artifact in found.items() if "**computed**" in artifact.data}
    assert computed == {key("ite-2 ties_merge"), key("ite-2 merged evaluate")}
    card = found[key("ite-2 merged evaluate")]
    assert card.task_run_id is not None
    assert newest in card.data and "| predictions | 40 |" in card.data
    metrics = {(row["metric"], row["split"]): row["value"] for row in store.read_table(newest, "metrics").to_pylist()}
    assert f"| srcc_fitted | {metrics['srcc_fitted', 'val']:.3f} [" in card.data
    assert f" {metrics['srcc_fitted', 'test']:.3f} [" in card.data
    drawn = re.search(r"\(data:image/svg\+xml;base64,(.+)\)", card.data)
    assert ElementTree.fromstring(base64.b64decode(drawn[1])).tag.endswith("svg")
    assert "data:image" not in found[key("zero-shot evaluate")].data


def test_a_stage_computed_for_another_flow_run_has_cards_under_the_name_of_its_run(prefect_server, monkeypatch):
    monkeypatch.setattr("pipeline_lib.progress.EVERY_SECONDS", 0.0)

    @flow(name="gpu_stage", flow_run_name="first ite-1 generate")
    def gpu_stage() -> Any:
        with cards.cards_of_run("first"), cards.progress_bars():
            progress = Progress("ite-1 generate", 2, "images")
            progress.advance()
            progress.advance()
        return FlowRunContext.get().flow_run.id

    assert set(shown(gpu_stage())) == {"first-ite-1-generate-progress"}


def test_long_work_has_a_bar_and_short_work_has_none(prefect_server, monkeypatch):
    @task
    def count(every_seconds: float, what: str) -> None:
        monkeypatch.setattr("pipeline_lib.progress.EVERY_SECONDS", every_seconds)
        with cards.progress_bars():
            progress = Progress(what, 4, "steps")
            progress.skip(1)
            for _ in range(3):
                progress.advance(note="loss 0.1")

    @flow(name="bars")
    def bars() -> Any:
        count(0.0, "long")
        count(60.0, "short")
        context = FlowRunContext.get()
        return context.flow_run.id, context.flow_run.name

    flow_run_id, name = bars()
    (bar,) = shown(flow_run_id).values()
    assert bar.key == f"{name}-long-progress" and bar.type == "progress"
    assert float(bar.data) == 100.0 and "4/4 steps" in bar.description and "loss 0.1" in bar.description


def test_a_training_draws_its_curves_while_it_trains(prefect_server, monkeypatch):
    monkeypatch.setattr("pipeline_lib.progress.EVERY_SECONDS", 0.0)
    monkeypatch.setattr(cards, "CURVES_EVERY_S", 0.0)
    seen = []

    def card(flow_run_id: Any) -> Any:
        return next(found for key, found in shown(flow_run_id).items() if key.endswith("training-curves"))

    @task
    def train() -> None:
        with cards.progress_bars():
            progress = Progress("training", 3, "steps")
            for step in range(1, 4):
                progress.draw(step, {"loss": 1 / step, "learning rate": 1e-4})
                progress.advance()
                seen.append(card(FlowRunContext.get().flow_run.id).data)

    @flow(name="curves")
    def curves() -> Any:
        train()
        return FlowRunContext.get().flow_run.id

    last = card(curves())
    assert last.type == "markdown" and last.data == seen[-1] and len(set(seen)) == 3
    assert "| loss | 1 | 0.3333 | 1 | 0.3333 |" in last.data and "| loss | 1 | 0.5 | 1 | 0.5 |" in seen[1]
    assert "3/3 steps" in last.description and last.data.startswith("![loss, learning rate](data:image/svg+xml;base64,")


def test_a_server_that_is_away_costs_no_run_and_is_not_asked_again_at_once(again, prefect_server, monkeypatch):
    asked = []

    def dead(api: str) -> SyncPrefectClient:
        asked.append(api)
        return SyncPrefectClient("http://127.0.0.1:9/api")

    monkeypatch.setattr(cards, "_client", dead)
    monkeypatch.setattr(cards, "_silent_until", 0.0)

    @flow(name="away")
    def away() -> None:
        for _ in range(5):
            cards.show_recipe(again)

    with listen("whyscore.ui") as lines:
        away()
        cards.flush()
    assert len(asked) == 1 and len(lines) == 1
    assert "UI" in lines[0]
    monkeypatch.setattr(cards, "_silent_until", 0.0)


def test_a_server_that_is_busy_is_not_asked_again_at_once(again, prefect_server, monkeypatch):
    """Prefect's clients ask six times within a minute; the card's own gives up, and the run does not wait for it."""
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(cards, "_silent_until", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}):
            client = SyncPrefectClient(f"http://127.0.0.1:{server.server_port}/api")
        monkeypatch.setattr(cards, "_client", lambda _: client)

        @flow(name="busy")
        def busy() -> None:
            cards.show_recipe(again)

        begun = time.monotonic()
        busy()
        cards.flush()
        server.shutdown()
    assert asked == ["/api/artifacts/"] and time.monotonic() - begun < 20
    monkeypatch.setattr(cards, "_silent_until", 0.0)


def test_outside_of_a_run_nothing_is_sent(again, monkeypatch):
    monkeypatch.setattr(cards, "_client", lambda api: pytest.fail("asked"))
    with listen("whyscore.ui") as lines:
        cards.show_recipe(again)
        cards.flush()
    assert lines == []
