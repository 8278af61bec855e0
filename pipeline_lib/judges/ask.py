"""Send many messages to a judge model, several at a time; keep each answer as it arrives, so it is paid once."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Hashable, Iterator, Set
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pipeline_lib.config.base import JudgeModel, OpenAIEndpoint
from pipeline_lib.errors import JudgeError
from pipeline_lib.judges.budget import Budget, Prices
from pipeline_lib.judges.chat_request import Reply, ask_once, chat_request, first_length_field
from pipeline_lib.judges.endpoint import KEY_VARIABLE, server_name, server_url, without_key
from pipeline_lib.openai_server import Failure, back_off_s, connect
from pipeline_lib.progress import Progress

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger("whyscore.judge")
Key = TypeVar("Key", bound=Hashable)
Asked = TypeVar("Asked", bound=Hashable, contravariant=True)
Value = TypeVar("Value")

MOST_MALFORMED_IN_A_ROW = 10
"""A judge that gives nine usable answers of ten does so once in 10 billion; a server that is set up wrongly, always."""


class Cache(Protocol[Asked, Value]):
    """Keeps answers by their questions."""

    def read(self, key: Asked) -> Value | None:
        """The kept value; None without a usable one, so that it is asked for."""

    def write(self, key: Asked, value: Value, answer: str | None) -> Value:
        """Keep a value and the judge's own words; returns the one that counts."""


def ask_all(
    config: JudgeModel,
    endpoint: OpenAIEndpoint,
    response_format: dict[str, Any],
    cache: Cache[Key, Value],
    read: Callable[[Reply], Value],
    malformed: Callable[[Value], str | None],
    messages: dict[Key, str],
    progress: Progress,
    again: Set[Key] = frozenset(),
) -> dict[Key, Value]:
    """The judge's answer to every message; each answer is in the cache before the next request.

    `malformed` gives the reason why an answer is unusable. Messages in `again` had such an answer before: they are sent
    last, and not counted as new ones. Raises `JudgeError` when the server fails for good, the budget is spent, or
    `MOST_MALFORMED_IN_A_ROW` answers are malformed.
    """
    asking = _Asking(config, endpoint, response_format, cache, read, malformed, progress, again)
    return asyncio.run(asking.run(messages))


class _Asking(Generic[Key, Value]):
    """Requests to a server, several at a time, until all are answered or one fails for good."""

    def __init__(
        self,
        config: JudgeModel,
        endpoint: OpenAIEndpoint,
        response_format: dict[str, Any],
        cache: Cache[Key, Value],
        read: Callable[[Reply], Value],
        malformed: Callable[[Value], str | None],
        progress: Progress,
        again: Set[Key],
    ):
        self.config, self.endpoint, self.response_format = config, endpoint, response_format
        self.cache, self.read, self.malformed, self.progress, self.again = cache, read, malformed, progress, again
        self.model = config.model
        self.length_field = first_length_field(endpoint)
        self.malformed_in_a_row = 0
        self.answered_as: str | None = None
        self.prices, self.budget = Prices(endpoint), Budget(endpoint.budget_usd)
        self.values: dict[Key, Value] = {}
        self.failure: str | None = None
        self.stopped = asyncio.Event()
        self.not_before = 0.0  # a pause that the server asks for holds for all requests

    async def run(self, messages: dict[Key, str]) -> dict[Key, Value]:
        # In a random order, so that two processes that judge the same explanations repeat few of them.
        mixed = random.sample(list(messages.items()), len(messages))
        waiting = iter(sorted(mixed, key=lambda item: item[0] in self.again))
        async with connect(server_url(self.endpoint), KEY_VARIABLE, self.endpoint.timeout_s) as client:
            workers = [self._work(client, waiting) for _ in range(min(self.endpoint.concurrency, len(messages)))]
            ends = await asyncio.gather(*workers, return_exceptions=True)  # none is cancelled: answers are paid for
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        if self.failure:
            raise JudgeError(
                f"judge {self.model} at {server_name(self.endpoint)}: {self.failure}. {len(self.values):,} of"
                f" {len(messages):,} verdicts arrived and are kept; run again to ask for the rest"
            )
        if self.prices.input or self.prices.output:
            log.info("judge %s: %s answers for $%.4f", self.model, f"{len(messages):,}", self.budget.spent)
        return self.values

    async def _work(self, client: "AsyncOpenAI", waiting: Iterator[tuple[Key, str]]) -> None:
        try:
            for key, message in waiting:
                value = await asyncio.to_thread(self.cache.read, key)  # another process may have asked meanwhile
                if value is None:
                    reply = await self._ask(client, message)
                    if isinstance(reply, Failure):
                        self._stop(reply.reason)
                        return
                    self._note(reply.model)
                    answer = reply.content if reply.refusal is None else reply.refusal
                    said = None if answer is None else without_key(answer)
                    value = await asyncio.to_thread(self.cache.write, key, self.read(reply), said)
                    self._count_malformed(key, value, said)
                self.values[key] = value
                self.progress.advance(note=f"${self.budget.spent:.2f}" if self.budget.spent else "")
                if self.stopped.is_set():
                    return
        except BaseException:
            self.stopped.set()  # the others only finish their current request
            raise

    def _note(self, model: str | None) -> None:
        if model and model != self.answered_as:
            self.answered_as = model
            if model != self.model:
                log.info("judge %s: it answers as %s", self.model, model)

    def _stop(self, why: str) -> None:
        self.failure = self.failure or why
        self.stopped.set()

    def _count_malformed(self, key: Key, value: Value, said: str | None) -> None:
        """Stop a server that gives no usable answers before the rest is paid for."""
        reason = self.malformed(value)
        if reason is None:
            self.malformed_in_a_row = 0
        elif key not in self.again:
            self.malformed_in_a_row += 1
        if self.malformed_in_a_row >= MOST_MALFORMED_IN_A_ROW:
            self._stop(
                f"{self.malformed_in_a_row} answers in a row are malformed ({reason}), the last is"
                f' {shortened(said)}; see docs/judge.md, "Malformed answers"'
            )

    async def _ask(self, client: "AsyncOpenAI", message: str) -> Reply | Failure:
        """One message with its retries; the worst case of each attempt is set aside before it is made."""
        worst = self.prices.worst(message, self.config.max_tokens)
        reply: Reply | Failure = Failure("stopped", retry=False)
        for attempt in range(self.endpoint.max_retries + 1):
            await self._pause()
            if self.stopped.is_set():
                break
            if not await self.budget.reserve(worst):
                return Failure(
                    f"the budget of ${self.budget.limit:.2f} is spent (${self.budget.spent:.4f}; the next request could"
                    f" cost ${worst:.4f})",
                    retry=False,
                )
            spent = worst
            try:
                if self.stopped.is_set():  # while it waited for budget
                    spent = 0.0
                    break
                reply = await self._ask_once(client, message)
                spent = self._cost(reply, worst)
            finally:
                await self.budget.settle(worst, spent)
            if isinstance(reply, Reply) or not reply.retry:
                return reply
            reply = reply._replace(reason=f"{reply.reason} (attempt {attempt + 1} of {self.endpoint.max_retries + 1})")
            log.debug("judge %s: %s", self.model, reply.reason)
            if reply.wait_s is not None:
                self.not_before = max(self.not_before, time.monotonic() + reply.wait_s)
            if attempt < self.endpoint.max_retries:
                await self._sleep(back_off_s(attempt))
        return reply

    async def _ask_once(self, client: "AsyncOpenAI", message: str) -> Reply | Failure:
        length_field = self.length_field
        request = chat_request(self.config, message, self.response_format, length_field)
        reply = await ask_once(client, request, self.endpoint.timeout_s)
        if isinstance(reply, Failure) and reply.refused == length_field == "max_tokens":
            self.length_field = "max_completion_tokens"  # newer models of OpenAI, also behind other addresses
            return await self._ask_once(client, message)
        return reply

    def _cost(self, reply: Reply | Failure, worst: float) -> float:
        if isinstance(reply, Failure):
            return worst if reply.billed else 0.0
        actual = self.prices.actual(reply)
        return worst if actual is None else actual

    async def _pause(self) -> None:
        while (left := self.not_before - time.monotonic()) > 0 and not self.stopped.is_set():
            await self._sleep(left)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
        except TimeoutError:
            return


def shortened(said: str | None) -> str:
    """The beginning of an answer, for a message."""
    return "empty" if not said or not said.strip() else repr(said.strip()[:200])
