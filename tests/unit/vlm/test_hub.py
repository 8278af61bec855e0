"""Models of the hub, against a server on loopback that answers as the hub does, and against none.

What the hub's client reads from the environment it reads when it is imported, so each question is a process of its own.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

COMMIT, OTHER = "ab" * 20, "cd" * 20
ASK = """
import json, sys
from pipeline_lib.errors import ModelError
from pipeline_lib.config.base import Model
from pipeline_lib.vlm import hub
from pipeline_lib.vlm.model_ref import resolve_model

for model, revision, weights in json.loads(sys.argv[1]):
    try:
        found = str(resolve_model(Model(id=model, revision=revision)).folder(weights=weights))
    except ModelError as error:
        found = f"ModelError: {error}"
    print(json.dumps([found]))
"""


class Hub(BaseHTTPRequestHandler):
    """One public model, `owner/tiny`, and one that is gated."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        self.asked.append(f"{self.command} {self.path}")
        if path[:2] == ["api", "models"]:
            self._model("/".join(path[2:4]), path[5] if len(path) > 5 else "main", body, tree=path[4:5] == ["tree"])
        elif path[:2] == ["owner", "tiny"] and path[2] == "resolve" and (self.folder / path[4]).is_file():
            content = (self.folder / path[4]).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self._send(200, content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"", body, {"X-Error-Code": "EntryNotFound"})

    def _model(self, name: str, revision: str, body: bool, tree: bool) -> None:
        if name == "owner/gated":
            self._send(403, b"", body, {"X-Error-Code": "GatedRepo"})
        elif name != "owner/tiny":
            self._send(404, b"", body, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self._send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        else:
            files = sorted(self.folder.iterdir())
            facts: object = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path.name} for path in files]}
            if tree:
                facts = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40} for p in files]
            self._send(200, json.dumps(facts).encode(), body, {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub(tiny_model: Path) -> Iterator[ThreadingHTTPServer]:
    Hub.folder, Hub.asked = tiny_model, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Reply(NamedTuple):
    """The folder that a model was found in, or the error."""

    found: str


def ask(endpoint: str, home: Path, *questions: tuple[str, str | None, bool], **env: str) -> list[Reply]:
    """What becomes of a model's id and revision, with its weights or without."""
    given = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", ASK, json.dumps(questions)]
    process = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **given, **env}, stdout=subprocess.PIPE, check=True, timeout=120
    )
    return [Reply(*json.loads(line)) for line in process.stdout.splitlines()]


def connections(server: socket.socket) -> int:
    """How many connections wait for the server."""
    server.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def url(hub: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{hub.server_port}"


def test_what_the_hub_does_not_give_is_said(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    unpinned, revision, gated, absent = ask(
        url(hub),
        tmp_path,
        ("owner/tiny", None, False),
        ("owner/tiny", OTHER, False),
        ("owner/gated", COMMIT, False),
        ("owner/absent", COMMIT, False),
    )
    assert "model.revision" in unpinned.found
    assert unpinned.found.endswith(f'main is now at "{COMMIT}"')
    assert f"owner/tiny has no revision {OTHER}" in revision.found
    assert "licence" in gated.found
    assert "owner/absent" in absent.found


def test_a_model_is_downloaded_once_and_then_found_without_network(
    hub: ThreadingHTTPServer, tmp_path: Path, tiny_model: Path
) -> None:
    (facts,) = ask(url(hub), tmp_path, ("owner/tiny", COMMIT, False))
    folder = Path(facts.found)
    assert (folder / "config.json").is_file() and not (folder / "model.safetensors").exists()
    whole, again = ask(url(hub), tmp_path, ("owner/tiny", COMMIT, True), ("owner/tiny", COMMIT, True))
    assert whole.found == again.found == facts.found
    assert (folder / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    asked = len(Hub.asked)
    (offline,) = ask(url(hub), tmp_path, ("owner/tiny", COMMIT, True))
    assert offline.found == whole.found and len(Hub.asked) == asked


@pytest.mark.parametrize("how", ["refused", "offline", "silent"])
def test_without_network_a_missing_model_is_said_at_once(how: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        port = silent.getsockname()[1] if how == "silent" else 9
        env = {"HF_HUB_OFFLINE": "1"} if how == "offline" else {}
        (reply,) = ask(f"http://127.0.0.1:{port}", tmp_path, ("owner/tiny", COMMIT, True), **env)
        assert connections(silent) == (how == "silent")  # one limit of patience, not one for each of many attempts
    assert f"the weights of owner/tiny at revision {COMMIT} are not on this machine" in reply.found
    assert f"hf download owner/tiny --revision {COMMIT}" in reply.found
