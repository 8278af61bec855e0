"""One request to an OpenAI-compatible server, and its reply or failure."""

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError

from pipeline_lib.config.base import JudgeModel, OpenAIEndpoint
from pipeline_lib.judges.endpoint import KEY_VARIABLE
from pipeline_lib.openai_server import Failure, Refusal, failure_of, send

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_CONTENT_FILTERS = {"content_filter", "content_policy_violation"}


class Reply(NamedTuple):
    """One complete chat completion; tokens are None when the server does not count them."""

    content: str | None
    refusal: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None


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


def chat_request(
    config: JudgeModel, endpoint: OpenAIEndpoint, message: str, response_format: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a chat completion with structured output, as little random as the model allows."""
    longest = "max_completion_tokens" if endpoint.base_url is None else "max_tokens"  # the old name, which all know
    request: dict[str, Any] = {
        "model": config.model,
        "messages": [{"role": "user", "content": message}],
        "response_format": response_format,
        longest: config.max_tokens,
    }
    return request if config.temperature is None else request | {"temperature": config.temperature, "seed": 0}


async def ask_once(client: "AsyncOpenAI", request: dict[str, Any], timeout_s: float) -> Reply | Failure:
    """Send one request; `timeout_s` is for all of it. No exception of the client leaves this function."""
    body = await send(client, "/chat/completions", request, timeout_s, KEY_VARIABLE)
    if isinstance(body, Refusal):
        return _refused(body, request["model"])
    if isinstance(body, Failure):
        return body
    try:
        completion = _Completion.model_validate_json(body)
        choice = completion.choices[0]
    except (ValidationError, IndexError):
        return Failure("the reply is not a complete chat completion", retry=True, billed=True)
    usage = completion.usage
    return Reply(
        content=choice.message.content,
        refusal=choice.message.refusal,
        finish_reason=choice.finish_reason,
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
    )


def _refused(refusal: Refusal, model: str) -> Reply | Failure:
    status, said = refusal.status, refusal.said
    if status == 400 and refusal.code in _CONTENT_FILTERS:
        return Reply(None, "content filter", "content_filter", 0, 0)
    failure = failure_of(refusal, model, KEY_VARIABLE)
    if status in (401, 403, 404, 408, 409, 429) or status >= 500:
        return failure
    if any(word in said for word in ("response_format", "json_schema", "structured output", "guided")):
        return Failure(
            f"it refuses structured output, response_format json_schema (HTTP {status}){said}; use a server or a model"
            " that supports it",
            retry=False,
        )
    advice = "; try judge.openai.temperature: null" if "temperature" in said else ""
    return failure._replace(reason=failure.reason + advice)
