"""Servers with OpenAI's protocol: addresses, single requests and their failures.

The judge model and the generation engine are behind such servers; each has a key of its own.
"""

import asyncio
import base64
import email.utils
import functools
import ipaddress
import json
import math
import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from pipeline_lib.errors import RecipeError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LONGEST_WAIT_S = 300.0
"""If a server asks for a longer pause, the run ends with an error; finished work is kept."""

FIRST_WAIT_S = 1.0
LONGEST_BACK_OFF_S = 60.0

_PRIVATE_ENDINGS = (".local", ".internal", ".lan", ".localhost")


class Failure(NamedTuple):
    """No answer, and why."""

    reason: str
    retry: bool
    wait_s: float | None = None  # what the server asks for
    billed: bool = False  # whether the server may have done work that costs money
    refused: str | None = None  # the field of the request that the server does not take


class Refusal(NamedTuple):
    """An HTTP status that is not a success, with the server's own words (without the key)."""

    status: int
    code: str | None
    said: str
    wait_s: float | None


def read_key(variable: str) -> str:
    """The key in an environment variable, or a placeholder that servers without keys ignore."""
    return os.environ.get(variable) or "no-key-needed"


def without_key(text: str, variable: str) -> str:
    """Text from a server, which may echo what it was sent, without the key in plain, percent, hex or base64 form."""
    for form in _forms(read_key(variable)):
        text = text.replace(form, f"[{variable}]")
    return text


@functools.lru_cache(maxsize=8)
def _forms(key: str) -> tuple[str, ...]:
    """The key as it may stand in a text; base64 with any number of characters before it ("Bearer ", "user:")."""
    plain = key.encode()
    forms = {key, quote(key, safe=""), plain.hex(), plain.hex().upper()}
    for before in range(3):
        padded = b"\0" * before + plain
        # Only characters whose six bits are all the key's: what stands before and after it changes the others.
        first, last = -(-8 * before // 6), 8 * len(padded) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(padded).decode()[first:last])
    return tuple(sorted((form for form in forms if len(form) >= min(6, len(key))), key=len, reverse=True))


def server_name(url: str) -> str:
    """The server's name in messages."""
    return urlsplit(url).netloc.rpartition("@")[2]


def check_address(url: str, field: str, variable: str) -> None:
    """Raise `RecipeError`, naming the recipe's field, for an address that is invalid or holds a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RecipeError(f"{field}: expected an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise RecipeError(f"{field}: it must hold no user, password or parameters; give the key in {variable}")
    if parts.scheme == "http" and not is_private(url):
        raise RecipeError(f"{field}: {parts.hostname} is not a private server; it needs https://")
    if not _is_header_text(read_key(variable)):
        raise RecipeError(f"the environment variable {variable} holds characters that no key has (a line end, quotes?)")


def is_private(url: str) -> bool:
    """Whether a server is on this machine or its private network: each address that its name has is private.

    A name that has no address here is judged by its form: one without a dot or with a local ending is private.
    """
    host = urlsplit(url).hostname or ""
    addresses = _addresses(host)
    if not addresses:
        return "." not in host or host.endswith(_PRIVATE_ENDINGS)
    return all(_is_private_address(address) for address in addresses)


@functools.lru_cache(maxsize=64)
def _addresses(host: str) -> tuple[str, ...]:
    """The addresses of a name as connections will use them (134744072 is 8.8.8.8); none if it has none within 5 s."""
    found: list[str] = []

    def resolve() -> None:
        try:
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, None))
        except (OSError, UnicodeError):
            return

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(5.0)
    return tuple(dict.fromkeys(found))


def _is_private_address(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_private or address.is_loopback or address.is_link_local


def client_settings(url: str) -> dict[str, Any]:
    """Settings of the HTTP client for a server: no redirects, and no proxy to a private server.

    A redirect would send texts, images and the key to an address that the recipe does not name; so would a proxy, in
    plain text, and it seldom knows the private network.
    """
    direct: dict[str, Any] = {"mounts": dict.fromkeys(("http://", "https://", "all://"))} if is_private(url) else {}
    return {"follow_redirects": False} | direct


def connect(url: str, variable: str, timeout_s: float) -> "AsyncOpenAI":
    """A client of a server; the caller tries again where it wants to."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    http = DefaultAsyncHttpxClient(timeout=timeout_s, **client_settings(url))
    return AsyncOpenAI(api_key=read_key(variable), base_url=url, timeout=timeout_s, max_retries=0, http_client=http)


async def send(
    client: "AsyncOpenAI", path: str, body: dict[str, Any] | None, timeout_s: float, variable: str
) -> str | Refusal | Failure:
    """Send one request, by POST if it has a body; `timeout_s` is for the whole answer, however slow.

    No exception of the client leaves this function: they hold the server's words, which may hold the key.
    """
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        async with asyncio.timeout(timeout_s):
            if body is None:
                return await client.get(path, cast_to=str)
            return await client.post(path, cast_to=str, body=body)
    except APIStatusError as error:
        return _refusal(error, variable)
    except (TimeoutError, APIConnectionError) as error:
        unreachable = type(error.__cause__).__name__ == "ConnectError"
        timed_out = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
        why = f"no complete answer within {timeout_s:g} s" if timed_out else "the connection was cut"
        return Failure("it cannot be reached" if unreachable else why, retry=True, billed=not unreachable)
    except OpenAIError as error:
        return Failure(without_key(f"{type(error).__name__}: {error}", variable)[:300], retry=False)


def failure_of(refusal: Refusal, model: str, variable: str) -> Failure:
    """The failure of a request with an HTTP status, the same for every use of such a server."""
    status, said = refusal.status, refusal.said
    if status == 429 and refusal.code == "insufficient_quota":
        return Failure("the account has no credit left (429 insufficient_quota)", retry=False)
    if 300 <= status < 400:
        return Failure(
            f"it redirects (HTTP {status}){said}; redirects are not followed, give that base_url", retry=False
        )
    if status in (408, 409, 429) or status >= 500:
        wait = refusal.wait_s
        if wait is not None and wait > LONGEST_WAIT_S:
            reason = f"HTTP {status}, to be tried again in {wait:.0f} s at the earliest{said}"
            return Failure(reason, retry=False)
        return Failure(f"HTTP {status}{said}", retry=True, wait_s=wait)
    if status == 401:
        return Failure(f"it does not accept the key (401); check {variable}", retry=False)
    if status == 403:
        return Failure(f"this key may not use {model} (403){said}", retry=False)
    if status == 404:
        return Failure(f"it knows no model {model}, or base_url lacks its /v1 (404){said}", retry=False)
    return Failure(f"it refuses the request (HTTP {status}){said}", retry=False)


def back_off_s(attempt: int) -> float:
    """Pause before the next attempt, 0 the first: doubled each time, with a random part."""
    return min(LONGEST_BACK_OFF_S, FIRST_WAIT_S * 2.0**attempt) * random.uniform(0.5, 1.0)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait, given as seconds or as a date (by the server's own clock if it tells)."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    until = _timestamp(headers.get("retry-after"))
    server_now = _timestamp(headers.get("date"))
    return None if until is None else max(0.0, until - (now if server_now is None else server_now))


def _timestamp(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, OverflowError):
        return None


def _refusal(error: "APIStatusError", variable: str) -> Refusal:
    headers = error.response.headers
    said = words(error.body, variable)
    if target := urlsplit(headers.get("location", "")).netloc.rpartition("@")[2]:
        said = f" to {without_key(target, variable)}{said}"
    return Refusal(error.status_code, error.code, said, retry_after_s(headers, time.time()))


def words(body: object, variable: str) -> str:
    """The server's own words for an error, without the key; nothing when it sends a page or nothing."""
    message = " ".join(without_key("; ".join(_messages(body)), variable).split())
    return f": {message[:300]}" if message and not message.startswith("<") else ""


def no_completion(body: str, variable: str) -> Failure:
    """The failure of a reply with status 200 that is no chat completion, with the server's own words.

    Some servers and proxies send errors so; then nothing was done that is paid for, and the error's own code counts.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    error = content.get("error") if isinstance(content, dict) else None
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        said = words(error, variable)
        if isinstance(code, int) and 400 <= code < 600:
            return failure_of(Refusal(code, None, said, None), "this model", variable)
        return Failure(f"it sends an error with HTTP 200{said}", retry=True)
    said = words(content, variable) or words(body, variable)
    return Failure(f"the reply is not a complete chat completion{said}", retry=True, billed=True)


def _messages(body: object) -> list[str]:
    """The texts of an error, in the forms of OpenAI, FastAPI (`detail` with a list), and plain text."""
    if isinstance(body, str):
        return [body] if body.strip() else []
    if isinstance(body, list):
        return [text for entry in body[:5] for text in _messages(entry)]
    if isinstance(body, dict):
        for name in ("message", "detail", "msg", "error", "error_description", "title"):
            if texts := _messages(body.get(name)):
                where = body.get("loc")
                place = ".".join(map(str, where)) + ": " if isinstance(where, list) and where else ""
                return [place + text for text in texts]
    return []


def _is_header_text(key: str) -> bool:
    """Check the key, because the client would fail with a message that shows it."""
    return key.isascii() and key.isprintable() and not set(key) & set(" '\"")
