"""Servers with OpenAI's protocol: addresses, single requests and their failures.

The judge model and the generation engine are behind such servers; each has a key of its own.
"""

import asyncio
import email.utils
import ipaddress
import math
import os
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

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
    """Text from a server, which may echo what it was sent, without the key."""
    return text.replace(read_key(variable), f"[{variable}]")


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
    """Whether a server is on this machine or its private network."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_ENDINGS)
    return address.is_private or address.is_loopback or address.is_link_local


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
    wait = retry_after_s(error.response.headers, time.time())
    return Refusal(error.status_code, error.code, words(error.body, variable), wait)


def words(body: object, variable: str) -> str:
    """The server's own words for an error, without the key; nothing when it sends a page."""
    message = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
    if not isinstance(message, str) or not message.strip() or message.lstrip().startswith("<"):
        return ""
    return ": " + " ".join(without_key(message, variable).split())[:300]


def _is_header_text(key: str) -> bool:
    """Check the key, because the client would fail with a message that shows it."""
    return key.isascii() and key.isprintable() and not set(key) & set(" '\"")
