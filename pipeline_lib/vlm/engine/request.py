"""One request to an engine behind an OpenAI-compatible server, and the checks of its reply.

The request is the part of the protocol that vLLM and SGLang share (docs/engines.md).
"""

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from PIL.Image import Image
from pydantic import BaseModel, ValidationError

from pipeline_lib import openai_server
from pipeline_lib.config.base import GenerationServer
from pipeline_lib.errors import EngineError
from pipeline_lib.openai_server import Failure, Refusal, back_off_s, failure_of, no_completion, send, server_name
from pipeline_lib.vlm.generate import Generated

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY_VARIABLE = "WHYSCORE_ENGINE_KEY"

T = TypeVar("T")


class Wording(NamedTuple):
    """Ways to send the beginning of an answer; a test finds the one that gives the tokens of training."""

    separator: str  # before the answer: the chat template's (vLLM renders the turn), or ours (SGLang appends it)
    add_special_tokens: bool  # the begin token, for chat templates that do not write it


class Limits(NamedTuple):
    """The end tokens of an answer, and tokens that are never in it."""

    max_new_tokens: int
    end_ids: list[int]
    never_ids: list[int]


class Reply(NamedTuple):
    """A continuation, the server's own words for it, its tokens' log-probabilities, and the tokens that it read."""

    generated: Generated  # its text is that of the tokens, where the server gives them
    said: str
    prompt_ids: list[int]
    logps: list[float] | None = None  # of the continuation's tokens; null where the server does not tell them


class _Message(BaseModel):
    content: str | None = None


class _Logp(BaseModel):
    logprob: float


class _Logps(BaseModel):
    content: list[_Logp] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logps | None = None
    prompt_token_ids: list[int] | None = None  # SGLang


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Completion(BaseModel):
    model: str
    choices: list[_Choice]
    usage: _Usage
    prompt_token_ids: list[int] | None = None  # vLLM


def connect(server: GenerationServer) -> "AsyncOpenAI":
    """A client of the server; retries are `persist`'s."""
    return openai_server.connect(server.base_url, KEY_VARIABLE, server.timeout_s)


def data_url(image: Image) -> str:
    """The exact pixels as a PNG, without a colour profile that a reader might apply."""
    plain, file = image.copy(), io.BytesIO()
    plain.info = {}
    plain.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Served(NamedTuple):
    """A model on a server, and the form of its requests."""

    client: "AsyncOpenAI"
    server: GenerationServer
    model: str  # the server's name for the base
    adapter: str | None
    prompt: str
    limits: Limits
    decode: Callable[[str, Sequence[int]], str]  # the text of tokens behind the beginning of an answer

    async def go_on(self, image: str, beginning: str, wording: Wording, *, logps: bool = False) -> Reply:
        """Continue the answer that begins so, about the image at a data URL; raises `EngineError`.

        With `logps` also the log-probabilities of the continuation's tokens, if the server has them. (Those of tokens
        that it reads, `prompt_logprobs`, end the process of a vLLM 0.32 that serves adapters on a CPU.)
        """
        body = continue_turn(self, image, beginning, wording) | ({"logprobs": True} if logps else {})
        reply = await persist(self.server, lambda: ask_once(self.client, self.server, body))
        if not reply.generated.ids:
            return reply
        # Servers drop a character that is cut at the limit, and write bytes that are no text in other ways.
        ids = reply.generated.ids
        stop = next((at for at, token in enumerate(ids) if token in self.limits.end_ids), len(ids))
        return reply._replace(generated=reply.generated._replace(text=self.decode(beginning, ids[:stop])))


def continue_turn(served: Served, image: str, beginning: str, wording: Wording) -> dict[str, Any]:
    """The body of a chat completion that continues the assistant's turn greedily.

    vLLM takes the adapter's name for the model's; SGLang does not look at that name and takes `lora_path`. Each ignores
    the other's fields. Every setting is given, so that defaults of the server or of generation_config change nothing.
    """
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": served.prompt}]
    return {
        "model": served.adapter or served.model,
        "messages": [
            {"role": "user", "content": content},
            {"role": "assistant", "content": wording.separator + beginning},
        ],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "add_special_tokens": wording.add_special_tokens,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": served.limits.max_new_tokens,
        "stop_token_ids": served.limits.end_ids,
        "logit_bias": {str(token): -100.0 for token in served.limits.never_ids},
        "skip_special_tokens": True,
        "return_token_ids": True,
        "return_prompt_token_ids": True,  # its older name in SGLang
    } | ({"lora_path": served.adapter} if served.adapter else {})


async def persist(server: GenerationServer, attempt: Callable[[], Awaitable[T | Failure]]) -> T:
    """Repeat a failed request, with growing pauses or those that the server asks for."""
    failure = Failure("not asked", retry=False)
    for number in range(1, server.max_retries + 2):
        found = await attempt()
        if not isinstance(found, Failure):
            return found
        failure = found
        if not failure.retry:
            break
        failure = failure._replace(reason=f"{failure.reason} (attempt {number} of {server.max_retries + 1})")
        if number <= server.max_retries:
            await asyncio.sleep(max(back_off_s(number - 1), failure.wait_s or 0.0))
    raise EngineError(
        f"generation server {server_name(server.base_url)}: {failure.reason}. Finished shards are kept; run again to"
        " continue"
    )


async def all_of(jobs: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """Run the jobs, so many at a time; returns their results in order, and raises the first error."""
    waiting, results = iter(enumerate(jobs)), dict[int, T]()

    async def work() -> None:
        for at, job in waiting:
            results[at] = await job()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(jobs))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [results[at] for at in range(len(jobs))]


async def ask_once(client: "AsyncOpenAI", server: GenerationServer, body: dict[str, Any]) -> Reply | Failure:
    """One attempt; model and finish reason of the reply must fit the request."""
    found = await send(client, "/chat/completions", body, server.timeout_s, KEY_VARIABLE)
    if isinstance(found, Refusal):
        return failure_of(found, body["model"], KEY_VARIABLE)
    if isinstance(found, Failure):
        return found
    try:
        completion = _Completion.model_validate_json(found)
        choice = completion.choices[0]
    except (ValidationError, IndexError):
        return no_completion(found, KEY_VARIABLE)
    if completion.model != body["model"]:
        return Failure(f"{completion.model!r} answered instead of {body['model']!r}", retry=False)
    usage, most = completion.usage, body["max_tokens"]
    if choice.finish_reason not in ("stop", "length"):
        return Failure(f"an answer ended with {choice.finish_reason!r} instead of stop or length", retry=True)
    if choice.finish_reason == "length" and usage.completion_tokens < most:
        return Failure(
            f"it cut an answer at {usage.completion_tokens} tokens, model.max_new_tokens is {most}; is its context too"
            f" short (--max-model-len, --context-length)? The prompt has {usage.prompt_tokens} tokens",
            retry=False,
        )
    prompt_ids = completion.prompt_token_ids or choice.prompt_token_ids
    if prompt_ids is None:
        return Failure(
            "it does not tell the tokens that it read (return_token_ids), so that they cannot be compared; take a newer"
            " vLLM, SGLang from 0.5.13",
            retry=False,
        )
    finished = choice.finish_reason == "stop"
    said, ids = choice.message.content or "", tuple(choice.token_ids or ())
    generated = Generated(said, usage.completion_tokens, finished, usage.prompt_tokens, ids)
    logps = choice.logprobs.content if choice.logprobs else None
    return Reply(generated, said, prompt_ids, None if logps is None else [entry.logprob for entry in logps])
