"""Decides who may ask the page, before any address of it is reached."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_HEADER = "x-whyscore"
"""Every request that changes something has it. A page of another site cannot send it unasked."""

LEAST_PASSWORD = 12

_WRONG_WAITS_S = 1.0

_HEADERS = {
    # Nothing is loaded from elsewhere, nothing is sent elsewhere, no text becomes code, no other page holds this one.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI application before another one: password, name of the host, origin of changes, and safe headers.

    `hosts` are the names under which a browser may know the server, None for any. Without it, a site could point its
    own name to 127.0.0.1 and read the page through the browser of a person who visits it.
    """

    def __init__(self, app: ASGIApp, password: str | None, hosts: Iterable[str] | None):
        self._app = app
        self._digest = _digest(password) if password else None
        self._hosts = None if hosts is None else frozenset(hosts)
        self._wrong = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = await self._refusal(scope["method"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_safely)

    async def _refusal(self, method: str, headers: Headers) -> Response | None:
        if self._hosts is not None and _name(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This page answers to its own address alone.", 421)
        if self._digest is not None and not self._knows(headers.get("authorization", "")):
            if "authorization" in headers:
                async with self._wrong:  # one wrong password at a time, whoever tries
                    await asyncio.sleep(_WRONG_WAITS_S)
            asked = {"www-authenticate": 'Basic realm="WhyScore", charset="UTF-8"'}
            return PlainTextResponse("A password is needed.", 401, asked)
        if method not in ("GET", "HEAD") and headers.get(OWN_HEADER) != "1":
            return PlainTextResponse("This request does not come from the page.", 403)
        return None

    def _knows(self, authorization: str) -> bool:
        kind, _, given = authorization.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            _, _, password = base64.b64decode(given.strip(), validate=True).partition(b":")
        except ValueError:
            return False
        assert self._digest is not None
        return hmac.compare_digest(hashlib.sha256(password).digest(), self._digest)  # digests: equal lengths too


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()


def _name(host: str) -> str:
    """The name in a `Host` header, without the port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0].lower()
