"""A hub for tests: a server on loopback that speaks the part of the Hugging Face hub's protocol that a push uses.

whoami-v2, repos/create, models/../tree, validate-yaml, preupload, the batch, upload and verify of LFS, and commit.
Files of more than 10 kB, and those that are not UTF-8, go to LFS. A repository has its files after a commit alone.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

REGULAR_BYTES = 10_000
"""Larger files go to LFS."""

TOKEN, READ_TOKEN = "hf_of_a_test_that_may_write", "hf_of_a_test_that_may_read"


class Repository:
    """A model's repository."""

    def __init__(self, visibility: str) -> None:
        self.visibility = visibility
        self.files: dict[str, bytes] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.commits: list[str] = []


class HubServer(ThreadingHTTPServer):
    """Listens on a free port; `owner` is the account of the two tokens, the second of which may only read."""

    daemon_threads = True

    def __init__(self, owner: str = "owner") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # of LFS, by sha256
        self.asked: list[str] = []
        self.checked: list[str] = []  # cards
        self.cut: str | None = None  # put: a connection ends in the middle of a file; commit: it is answered with 500
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A connection that ends is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        self._begin()
        match self.parts:
            case ["api", "whoami-v2"]:
                if self._known():
                    self._json({"name": self.server.owner, "type": "user", "orgs": [], "auth": {}})
            case ["api", "models", owner, name, "tree", _]:
                if found := self._repository(f"{owner}/{name}"):
                    self._json(
                        [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in found.files.items()]
                    )
            case ["api", "models", owner, name, *_]:
                if self._repository(f"{owner}/{name}"):
                    self._json({"id": f"{owner}/{name}", "sha": "0" * 40, "siblings": []})
            case _:
                self._error(404, "EntryNotFound")

    def do_POST(self) -> None:
        self._begin()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match self.parts:
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.server.checked.append(json.loads(body)["content"])
                self._json({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                if self._known(write=True) and self._repository(f"{owner}/{name}"):
                    self._json({"files": [_mode(file) for file in json.loads(body)["files"]]})
            case [owner, name, "info", "lfs", "objects", "batch"]:
                if self._known(write=True) and self._repository(f"{owner}/{name.removesuffix('.git')}"):
                    self._json({"transfer": "basic", "objects": [self._object(o) for o in json.loads(body)["objects"]]})
            case ["lfs", "verify"]:
                wanted = json.loads(body)
                there = len(self.server.objects.get(wanted["oid"], b"")) == wanted["size"]
                self._json({}) if there else self._error(404, "EntryNotFound")
            case ["api", "models", owner, name, "commit", _]:
                if self._known(write=True) and (found := self._repository(f"{owner}/{name}")):
                    self._commit(f"{owner}/{name}", found, [json.loads(line) for line in body.splitlines()])
            case _:
                self._error(404, "EntryNotFound")

    def do_PUT(self) -> None:
        self._begin()
        size = int(self.headers.get("Content-Length") or 0)
        if self.server.cut == "put":
            self.rfile.read(min(size, 1000))
            self.close_connection = True
            self.connection.close()
            return
        content = self.rfile.read(size)
        digest = hashlib.sha256(content).hexdigest()
        if self.parts != ["lfs", digest]:
            self._error(400, "BadDigest")
            return
        with self.server.lock:
            self.server.objects[digest] = content
        self._json({})

    def _begin(self) -> None:
        self.parts = urlsplit(self.path).path.strip("/").split("/")
        with self.server.lock:
            self.server.asked.append(f"{self.command} {urlsplit(self.path).path}")

    def _known(self, *, write: bool = False) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            self._error(401, "Unauthorized")
            return False
        if write and token != TOKEN:
            self._error(403, "Forbidden")
            return False
        return True

    def _repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None:
            self._error(404, "RepoNotFound")
        return found

    def _create(self, wanted: dict[str, Any]) -> None:
        if not self._known(write=True):
            return
        owner = wanted.get("organization") or self.server.owner
        name = f"{owner}/{wanted['name']}"
        if owner != self.server.owner:
            self._error(403, "Forbidden")
        elif name in self.server.repositories:
            self._error(409, "RepoExists")
        else:
            self.server.repositories[name] = Repository(wanted.get("visibility") or "public")
            self._json({"url": f"{self.server.url}/{name}"})

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """What to do to bring an object here; nothing if it is here."""
        if wanted["oid"] in self.server.objects:
            return dict(wanted)
        to = {"upload": f"{self.server.url}/lfs/{wanted['oid']}", "verify": f"{self.server.url}/lfs/verify"}
        return {**wanted, "actions": {name: {"href": href} for name, href in to.items()}}

    def _commit(self, name: str, found: Repository, lines: list[dict[str, Any]]) -> None:
        if self.server.cut == "commit":
            self._error(500, "InternalError")
            return
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                found.files.pop(value["path"])
        found.commits.append(message)
        commit = f"{len(found.commits):040x}"
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def _error(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    try:
        base64.b64decode(file["sample"]).decode()
        lfs = file["size"] > REGULAR_BYTES
    except UnicodeDecodeError:
        lfs = True
    return {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": None}


@contextlib.contextmanager
def hub_server(owner: str = "owner") -> Iterator[HubServer]:
    """The server, which ends with the body."""
    server = HubServer(owner)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
