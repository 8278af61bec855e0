"""Stands between a client and an S3 server and spoils what it is told to."""

import contextlib
import http.client
import http.server
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

FAULTS = (
    "status 500",
    "status 503",
    "cut before",  # the server never saw the request
    "cut after",  # the server has done it, its answer is lost
    "half the answer",
    "slow answer",
    "delay",
)

DAMAGE = ("other bytes", "a byte less", "other bytes without checksum", "a byte less without checksum")
"""What arrives of an object is not what the server sent."""


class Proxy(http.server.ThreadingHTTPServer):
    """`fault(method, path, seen)` names what to do to a request (one of `FAULTS`), or "" for nothing.

    `seen` is the number of requests so far; all of them are in `requests`, and what was spoiled in `spoiled`.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: str, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.target = target.removeprefix("http://")
        self.fault: Callable[[str, str, int], str] = lambda method, path, seen: ""
        self.requests: list[tuple[str, str]] = []
        self.spoiled: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that has gone away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path, len(self.server.requests))
        if fault:
            self.server.spoiled.append((fault, self.command, self.path))
        if fault == "delay":
            time.sleep(0.5)
        if fault.startswith("status "):
            self._answer(int(fault.split()[1]), b"", [])
            return
        if fault.startswith("say "):  # an answer of success with this in it
            self._answer(200, fault.removeprefix("say ").encode(), [])
            return
        if fault == "cut before":
            self._cut()
            return
        try:
            status, content, headers = self._ask(body)
        except OSError:  # the server itself is down
            self._cut()
            return
        if fault == "cut after":
            self._cut()
            return
        if fault.startswith("other bytes") and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault.startswith("a byte less"):
            content = content[:-1]
        if fault.endswith("without checksum"):
            headers = [(name, value) for name, value in headers if "checksum" not in name.lower()]
        self._answer(status, content, headers, fault)

    def _ask(self, body: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
        onward = http.client.HTTPConnection(self.server.target, timeout=120)
        try:
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    onward.putheader(name, value)
            onward.endheaders(body or None)
            answer = onward.getresponse()
            return answer.status, answer.read(), answer.getheaders()
        finally:
            onward.close()

    def _answer(self, status: int, content: bytes, headers: list[tuple[str, str]], fault: str = "") -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD" or not content:
            return
        half = len(content) // 2
        self.wfile.write(content[:half])
        if fault == "half the answer":
            self._cut()
            return
        if fault == "slow answer":
            self.wfile.flush()
            time.sleep(0.5)
        self.wfile.write(content[half:])

    def _cut(self) -> None:
        """End the connection without a word."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def seeded(seed: int, share: float, faults: tuple[str, ...] = FAULTS) -> Callable[[str, str, int], str]:
    """A fault for `Proxy`: this share of the requests, drawn anew for each, gets one of `faults`."""
    drawn, lock = random.Random(seed), threading.Lock()

    def fault(method: str, path: str, seen: int) -> str:
        with lock:
            return drawn.choice(faults) if drawn.random() < share else ""

    return fault


@contextlib.contextmanager
def between(target: str, port: int = 0) -> Iterator[Proxy]:
    """A running proxy in front of a server's URL, on a free port."""
    proxy = Proxy(target, port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
