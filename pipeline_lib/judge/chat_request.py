"""One request to an OpenAI-compatible server, and what became of it."""

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError

from pipeline_lib.judge.endpoint import KEY_VARIABLE, without_key
from pipeline_lib.judge.verdict import RESPONSE_FORMAT, Reply
from pipeline_lib.recipe import OpenAIEndpoint, OpenAIJudge

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LONGEST_WAIT_S = 300.0
"""A server that asks for a longer pause is not waited for: the verdicts are kept, the run ends and says so."""

FIRST_WAIT_S = 1.0
LONGEST_BACK_OFF_S = 60.0

_CONTENT_FILTERS = {"content_filter", "content_policy_violation"}


class Failure(NamedTuple):
    """No answer, and why."""

    reason: str
    retry: bool
    wait_s: float | None = None  # what the server asks for
    billed: bool = False  # whether the server may have worked for it


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


def chat_request(config: OpenAIJudge, endpoint: OpenAIEndpoint, message: str) -> dict[str, Any]:
    """The arguments of a chat completion with structured output, as little random as the model allows."""
    longest = "max_completion_tokens" if endpoint.base_url is None else "max_tokens"  # its old name, which all know
    request: dict[str, Any] = {
        "model": config.model,
        "messages": [{"role": "user", "content": message}],
        "response_format": RESPONSE_FORMAT,
        longest: config.max_tokens,
    }
    return request if config.temperature is None else request | {"temperature": config.temperature, "seed": 0}


async def ask_once(client: "AsyncOpenAI", request: dict[str, Any], timeout_s: float) -> Reply | Failure:
    """Send one request; `timeout_s` is for all of it, however slowly the answer drips.

    No exception of the client leaves this function: they carry the server's words, and those may carry the key.
    """
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        async with asyncio.timeout(timeout_s):
            response = await client.chat.completions.with_raw_response.create(**request)
            body = response.http_response.content
    except APIStatusError as error:
        return _refused(error, request["model"])
    except (TimeoutError, APIConnectionError) as error:
        unreachable = type(error.__cause__).__name__ == "ConnectError"
        timed_out = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
        why = f"no whole answer within {timeout_s:g} s" if timed_out else "the connection was cut"
        return Failure("it cannot be reached" if unreachable else why, retry=True, billed=not unreachable)
    except OpenAIError as error:
        return Failure(without_key(f"{type(error).__name__}: {error}")[:300], retry=False)
    try:
        completion = _Completion.model_validate_json(body)
        choice = completion.choices[0]
    except (ValidationError, IndexError):
        return Failure("an answer that is no whole chat completion", retry=True, billed=True)
    usage = completion.usage
    return Reply(
        content=choice.message.content,
        refusal=choice.message.refusal,
        finish_reason=choice.finish_reason,
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
    )


def back_off_s(attempt: int) -> float:
    """Pause before the next attempt, 0 the first: doubled each time, and not the same for all that wait."""
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


def _refused(error: "APIStatusError", model: str) -> Reply | Failure:
    status, said = error.status_code, _words(error.body)
    if status == 400 and error.code in _CONTENT_FILTERS:
        return Reply(None, "content filter", "content_filter", 0, 0)
    if status == 429 and error.code == "insufficient_quota":
        return Failure("the account has no credit left (429 insufficient_quota)", retry=False)
    if status in (408, 409, 429) or status >= 500:
        wait = retry_after_s(error.response.headers, time.time())
        reason = f"HTTP {status}{said}"
        if wait is not None and wait > LONGEST_WAIT_S:
            reason = f"HTTP {status}, to be tried again in {wait:.0f} s at the earliest{said}"
            return Failure(reason, retry=False)
        return Failure(reason, retry=True, wait_s=wait)
    if status == 401:
        return Failure(f"it does not accept the key (401); check {KEY_VARIABLE}", retry=False)
    if status == 403:
        return Failure(f"this key may not use {model} (403){said}", retry=False)
    if status == 404:
        return Failure(f"it knows no model {model}, or base_url lacks its /v1 (404){said}", retry=False)
    if any(word in said for word in ("response_format", "json_schema", "structured output", "guided")):
        return Failure(
            f"it refuses structured output, response_format json_schema (HTTP {status}){said}; take a server or a model"
            " that supports it",
            retry=False,
        )
    advice = "; try judge.openai.temperature: null" if "temperature" in said else ""
    return Failure(f"it refuses the request (HTTP {status}){said}{advice}", retry=False)


def _words(body: object) -> str:
    """The server's own words for an error, without the key; nothing when it sends a page."""
    message = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
    if not isinstance(message, str) or not message.strip() or message.lstrip().startswith("<"):
        return ""
    return ": " + " ".join(without_key(message).split())[:300]
