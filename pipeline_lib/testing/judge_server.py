"""A judge for tests: an HTTP server on loopback with chat completions, which makes errors when told to.

Its reply depends on a word in the explanation: `server.plan["word"] = [too_many("1"), fail(500)]` fails the first two
requests whose message holds the word, and answers the next ones well. Errors repeat the Authorization header, as some
proxies do.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LABELS = ("bad", "poor", "fair", "good", "excellent")
ASPECTS = ("consistency", "usefulness", "general")
TOKENS = {"prompt_tokens": 500, "completion_tokens": 20, "total_tokens": 520}


def grades_of(message: str) -> dict[str, int]:
    """The grades that the server gives to a message: always the same, and different for different messages."""
    digest = hashlib.sha256(message.encode()).digest()
    return {aspect: digest[at] % 5 for at, aspect in enumerate(ASPECTS)}


class JudgeServer(ThreadingHTTPServer):
    """Listens on a free port; counts requests, answers that would be paid for, and requests at the same time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan: dict[str, list[Action]] = {}
        self.otherwise: Action = answer()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paid = 0
        self.name: str | None = None  # of the model that answers; null: the one that is asked
        self.delay_s = 0.0
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that closes the connection is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.request: dict[str, Any] = request
        message = request["messages"][0]["content"]
        server = self.server
        with server.lock:
            server.requests.append({"path": self.path, "message": message} | request)
            server.keys.append(self.headers["Authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            planned = next((actions for word, actions in server.plan.items() if word in message and actions), None)
            action = planned.pop(0) if planned else server.otherwise
        try:
            server.closing.wait(server.delay_s)
            action(self, message)
        finally:
            with server.lock:
                server.at_once -= 1

    def send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        """A whole response, or the beginning of one when `headers` gives a longer Content-Length."""
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def completion(self, content: Any, finish: str = "stop", usage: Any = TOKENS, **message: Any) -> bytes:
        with self.server.lock:
            self.server.paid += 1
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content} | message}
        model = self.server.name or self.request["model"]
        reply = {"id": "c", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}
        return json.dumps(reply | {"usage": usage}).encode()

    def log_message(self, *_: Any) -> None:
        pass


Action = Callable[[_Handler, str], None]


def answer(**labels: Any) -> Action:
    """Grade as `grades_of` says, with some labels replaced."""

    def act(handler: _Handler, message: str) -> None:
        said = {aspect: LABELS[grade] for aspect, grade in grades_of(message).items()} | labels
        handler.send(200, handler.completion(json.dumps(said)))

    return act


def say(content: Any, finish: str = "stop", **message: Any) -> Action:
    """Another content, finish reason, usage or refusal."""
    return lambda handler, _: handler.send(200, handler.completion(content, finish, **message))


def graded(wrap: Callable[[str], Any], usage: Any = TOKENS) -> Action:
    """Grade as `grades_of` says, with the JSON in another form, or another usage."""

    def act(handler: _Handler, message: str) -> None:
        said = {aspect: LABELS[grade] for aspect, grade in grades_of(message).items()}
        handler.send(200, handler.completion(wrap(json.dumps(said)), usage=usage))

    return act


def raw(status: int, body: Any, headers: dict[str, str] | None = None) -> Action:
    """A body as it stands, with any status."""
    return lambda handler, _: handler.send(status, json.dumps(body).encode(), headers)


def needs_new_name(handler: _Handler, message: str) -> None:
    """What newer models of OpenAI answer to `max_tokens`."""
    if "max_tokens" not in handler.request:
        return answer()(handler, message)
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    error = {"message": said, "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter"}
    return raw(400, {"error": error})(handler, message)


def fail(status: int, message: str = "no", headers: dict[str, str] | None = None, code: str | None = None) -> Action:
    """An error in OpenAI's format, which echoes the key."""

    def act(handler: _Handler, _: str) -> None:
        text = f"{message} (you sent {handler.headers['Authorization']})"
        body = {"error": {"message": text, "type": "error", "param": None, "code": code}}
        handler.send(status, json.dumps(body).encode(), headers)

    return act


def too_many(retry_after: str) -> Action:
    return fail(429, "slow down", {"Retry-After": retry_after})


def page(status: int) -> Action:
    """What a proxy sends."""

    def act(handler: _Handler, _: str) -> None:
        body = f"<html>Bad gateway {handler.headers['Authorization']}</html>".encode()
        handler.send(status, body, kind="text/html")

    return act


def never(handler: _Handler, _: str) -> None:
    handler.server.closing.wait(30)
    handler.close_connection = True


def drip(handler: _Handler, message: str) -> None:
    """A byte at a time, without long pauses and without an end."""
    handler.send(200, b"", {"Content-Length": "1000000"})
    with contextlib.suppress(OSError):
        while not handler.server.closing.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def cut(handler: _Handler, message: str) -> None:
    """The connection ends in the middle of the body."""
    body = handler.completion("{}")
    handler.send(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
    handler.close_connection = True


def half_json(handler: _Handler, message: str) -> None:
    """Half of the JSON, with a length that says it is all."""
    body = handler.completion("{}")
    handler.send(200, body[: len(body) // 2])


@contextlib.contextmanager
def judge_server() -> Iterator[JudgeServer]:
    """A running server; its port is free again afterwards."""
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
