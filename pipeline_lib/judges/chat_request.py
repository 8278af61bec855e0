"""One request to an OpenAI-compatible server, and its reply or failure."""

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError, field_validator

from pipeline_lib.config.base import JudgeModel, OpenAIEndpoint
from pipeline_lib.judges.endpoint import KEY_VARIABLE
from pipeline_lib.openai_server import Failure, Refusal, failure_of, no_completion, send

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LengthField = Literal["max_tokens", "max_completion_tokens"]

MOST_TOKENS = 10**8
"""A greater number of tokens in a reply is taken for an error of the server."""

_CONTENT_FILTERS = {"content_filter", "content_policy_violation"}


class Reply(NamedTuple):
    """One complete chat completion; a number of tokens is None when the server gives none, or an impossible one."""

    content: str | None
    refusal: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str | None = None  # that answered, by the server's own name


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, content: Any) -> Any:
        """Some servers send the content as a list of parts."""
        if not isinstance(content, list):
            return content
        return "".join(part if isinstance(part, str) else _text_of(part) for part in content)


def _text_of(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""  # e.g. a part with the thinking


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    model: Any = None
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None


def chat_request(
    config: JudgeModel, message: str, response_format: dict[str, Any], length_field: LengthField
) -> dict[str, Any]:
    """The arguments of a chat completion with structured output, as little random as the model allows."""
    request: dict[str, Any] = {
        "model": config.model,
        "messages": [{"role": "user", "content": message}],
        "response_format": response_format,
        length_field: config.max_tokens,
    }
    return request if config.temperature is None else request | {"temperature": config.temperature, "seed": 0}


def first_length_field(endpoint: OpenAIEndpoint) -> LengthField:
    """The field that limits an answer: OpenAI's, or for other servers the older name, which nearly all know."""
    return "max_completion_tokens" if endpoint.base_url is None else "max_tokens"


async def ask_once(client: "AsyncOpenAI", request: dict[str, Any], timeout_s: float) -> Reply | Failure:
    """Send one request; `timeout_s` is for all of it. No exception of the client leaves this function."""
    body = await send(client, "/chat/completions", request, timeout_s, KEY_VARIABLE)
    if isinstance(body, Refusal):
        return _refused(body, request["model"])
    if isinstance(body, Failure):
        return body
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        return no_completion(body, KEY_VARIABLE)
    model = completion.model if isinstance(completion.model, str) and completion.model else None
    if model and not same_model(request["model"], model):
        return Failure(
            f"{model!r} answered instead of {request['model']!r}; set the judge's model in the recipe to the name of"
            " the model that is meant, or start the server with that name (llama.cpp: --alias)",
            retry=False,
            billed=True,
        )
    choice = completion.choices[0]
    content = choice.message.content
    return Reply(
        content=content,
        refusal=choice.message.refusal,
        finish_reason=choice.finish_reason,
        input_tokens=_tokens(completion.usage, "prompt_tokens", at_least=1),
        output_tokens=_tokens(completion.usage, "completion_tokens", at_least=1 if content else 0),
        model=model,
    )


def same_model(asked: str, answered: str) -> bool:
    """Whether the name of the model that answered is that of the asked one, which may be dated or without its owner.

    OpenAI answers to `gpt-4o-mini` as `gpt-4o-mini-2024-07-18`. llama.cpp answers to any name as its own model.
    """
    asked, answered = asked.lower(), answered.lower()
    short, dated = asked.rpartition("/")[2], answered.rpartition("/")[2]
    if "/" in asked and "/" in answered and asked.rpartition("/")[0] != answered.rpartition("/")[0]:
        return False
    return re.fullmatch(re.escape(short) + r"([-@:](\d{4}-?\d{2}(-?\d{2})?|\d{3,4}))?", dated) is not None


def _tokens(usage: Any, name: str, at_least: int) -> int | None:
    """A number of tokens that can be true; with a lower one the budget would never be reached."""
    count = usage.get(name) if isinstance(usage, dict) else None
    possible = isinstance(count, int) and not isinstance(count, bool) and at_least <= count <= MOST_TOKENS
    return count if possible else None


def _refused(refusal: Refusal, model: str) -> Reply | Failure:
    status, said = refusal.status, refusal.said
    if status == 400 and refusal.code in _CONTENT_FILTERS:
        return Reply(None, "content filter", "content_filter", 0, 0)
    failure = failure_of(refusal, model, KEY_VARIABLE)
    if status in (401, 403, 404, 408, 409, 429) or status >= 500:
        return failure
    if "max_completion_tokens" in said or ("max_tokens" in said and "nsupported" in said):
        return failure._replace(refused="max_tokens")
    if any(word in said for word in ("response_format", "json_schema", "structured output", "guided")):
        return Failure(
            f"it refuses structured output, response_format json_schema (HTTP {status}){said}; use a server or a model"
            " that supports it",
            retry=False,
        )
    advice = "; try judge.openai.temperature: null" if "temperature" in said else ""
    return failure._replace(reason=failure.reason + advice)
