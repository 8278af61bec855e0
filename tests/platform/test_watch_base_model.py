"""A new revision of a watched model starts exactly one run, against a hub that answers over HTTP."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.watch_base_model import Watched, current_revision, watch_base_model
from pipeline_lib.errors import ModelError, WhyScoreError
from tests.platform.conftest import ROOT, Stack, slow, wait_for


class Hub(ThreadingHTTPServer):
    """As much of the hub as is asked: `GET /api/models/<owner>/<name>`."""

    commits: dict[str, str]
    together: threading.Barrier | None = None  # answers wait until so many were asked for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.server.together:
            self.server.together.wait(120)
        model = self.path.removeprefix("/api/models/").split("?")[0]
        commit = self.server.commits.get(model)
        body = json.dumps({"id": model, "sha": commit} if commit else {"error": "Repository not found"}).encode()
        self.send_response(200 if commit else 404)
        if not commit:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    server = Hub(("127.0.0.1", 0), _Answer)
    server.commits = {"lab/model": "a" * 40}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


WATCHED = [Watched(model="lab/model", recipe="demo")]


def test_the_hub_says_the_commit(hub: Hub) -> None:
    assert current_revision("lab/model", hub.url, 0) == "a" * 40
    with pytest.raises(ModelError, match="lab/other"):
        current_revision("lab/other", hub.url, 0)


def test_a_bucket_has_a_revision_once_it_is_quiet(s3_server: str, tmp_path: Path) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.mkdir("watched-models")
    fs.pipe("watched-models/new/weights.safetensors", b"1" * 10)
    with pytest.raises(ModelError, match="no config"):
        current_revision("s3://watched-models/new", None, 0)
    fs.pipe("watched-models/new/config.json", b"{}")
    assert current_revision("s3://watched-models/new", None, 600) is None
    first = current_revision("s3://watched-models/new", None, 0)
    assert first == current_revision("s3://watched-models/new/", None, 0)
    fs.pipe("watched-models/new/weights.safetensors", b"2" * 10)
    assert current_revision("s3://watched-models/new", None, 0) not in (first, None)


@pytest.fixture
def started(stack: Stack) -> Iterator[Any]:
    """A deployment in a pool without workers, so that what is started stays to be counted."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="nobody", type="process"), overwrite=True)
        flow_id = client.create_flow_from_name("self_improve")
        deployment = client.create_deployment(
            flow_id=flow_id, name="watched", work_pool_name="nobody", path=str(ROOT),
            entrypoint="deployments/deployed.py:self_improve",
        )  # fmt: skip

        def runs() -> list[Any]:
            from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

            only = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
            return client.read_flow_runs(flow_run_filter=only)

        yield runs
        client.delete_deployment(deployment)


def watch(hub: Hub, store: Path, watched: list[Watched] = WATCHED) -> list[str]:
    return watch_base_model.fn(watched, str(store), "self_improve/watched", hub.url, 0)


@slow
def test_one_run_for_each_revision_however_often_it_is_polled(hub: Hub, started: Any, tmp_path: Path) -> None:
    first = [watch(hub, tmp_path) for _ in range(3)]
    assert first[0] == first[1] == first[2]
    (run,) = started()
    assert run.parameters["recipe"] == "demo"
    assert run.parameters["overrides"]["model.id"] == "lab/model"
    assert run.parameters["overrides"]["model.revision"] == "a" * 40
    hub.commits["lab/model"] = "b" * 40
    second = watch(hub, tmp_path)
    assert second != first[0]
    assert len(started()) == 2


@slow
def test_one_run_when_polled_at_once(hub: Hub, started: Any, stack: Stack, tmp_path: Path) -> None:
    code = (
        "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = False\n"
        "from flows.watch_base_model import watch_base_model, Watched\n"
        f"print(watch_base_model([Watched(model='lab/model', recipe='demo')], {str(tmp_path)!r},"
        f" 'self_improve/watched', {hub.url!r}, 0)[0])"
    )
    hub.together = threading.Barrier(2)
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: stack.python("-c", code), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    assert len({one.stdout.strip().splitlines()[-1] for one in done}) == 1
    assert len(started()) == 1


@slow
@pytest.mark.parametrize("moment", ["run_deployment", "started pointer"])
def test_a_crash_between_noticing_and_starting_loses_nothing(
    hub: Hub, started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from pipeline_lib.store import ArtifactStore

    class Killed(BaseException):
        pass

    def die(*arguments: Any, **named: Any) -> Any:
        raise Killed

    create = ArtifactStore.create_pointer
    with monkeypatch.context() as patch:
        if moment == "run_deployment":
            patch.setattr("flows.watch_base_model.run_deployment", die)
        else:
            patch.setattr(
                ArtifactStore, "create_pointer",
                lambda self, path, value: die() if ".started" in path else create(self, path, value),
            )  # fmt: skip
        with pytest.raises(Killed):
            watch(hub, tmp_path)
    watch(hub, tmp_path)
    watch(hub, tmp_path)
    assert len(started()) == 1


@slow
def test_an_unknown_model_does_not_keep_the_others_waiting(hub: Hub, started: Any, tmp_path: Path) -> None:
    with pytest.raises(WhyScoreError, match="lab/gone"):
        watch(hub, tmp_path, [Watched(model="lab/gone", recipe="demo"), *WATCHED])
    assert len(started()) == 1


@slow
def test_the_event_is_seen_by_the_server(hub: Hub, started: Any, stack: Stack, tmp_path: Path) -> None:
    import httpx

    done = stack.python(
        "-c",
        "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = False\n"
        "from flows.watch_base_model import watch_base_model, Watched\n"
        f"watch_base_model([Watched(model='lab/model', recipe='demo')], {str(tmp_path)!r},"
        f" 'self_improve/watched', {hub.url!r}, 0)",
    )
    assert done.returncode == 0, done.stderr
    user, _, password = stack.settings["PREFECT_AUTH_STRING"].partition(":")
    query = {"filter": {"event": {"name": ["whyscore.base-model.landed"]}}}

    def seen() -> Any:
        return httpx.post(f"{stack.api}/events/filter", json=query, auth=(user, password)).json()["events"]

    event = wait_for(seen, 30, "the event")[0]
    assert event["resource"]["whyscore.revision"] == "a" * 40
