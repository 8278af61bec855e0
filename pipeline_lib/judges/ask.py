"""Send many messages to a judge model, several at a time; keep each answer as it arrives, so it is paid once."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pipeline_lib.config.base import JudgeModel, OpenAIEndpoint
from pipeline_lib.errors import JudgeError
from pipeline_lib.judges.budget import Budget, Prices
from pipeline_lib.judges.chat_request import Reply, ask_once, chat_request
from pipeline_lib.judges.endpoint import read_key, server_name, server_url, without_key
from pipeline_lib.openai_server import Failure, back_off_s
from pipeline_lib.progress import Progress

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger("whyscore.judge")
Key = TypeVar("Key", bound=Hashable)
Asked = TypeVar("Asked", bound=Hashable, contravariant=True)
Value = TypeVar("Value")


class Cache(Protocol[Asked, Value]):
    """Keeps answers by their questions."""

    def read(self, key: Asked) -> Value | None:
        """The kept value; None without a usable one."""

    def write(self, key: Asked, value: Value, answer: str | None) -> Value:
        """Keep a value and the judge's own words; returns the one that counts."""


def ask_all(
    config: JudgeModel,
    endpoint: OpenAIEndpoint,
    response_format: dict[str, Any],
    cache: Cache[Key, Value],
    read: Callable[[Reply], Value],
    messages: dict[Key, str],
    progress: Progress,
) -> dict[Key, Value]:
    """The judge's answer to every message; each answer is in the cache before the next request.

    Raises `JudgeError` when the server fails for good or the budget is spent.
    """
    return asyncio.run(_Asking(config, endpoint, response_format, cache, read, progress).run(messages))


class _Asking(Generic[Key, Value]):
    """Requests to a server, several at a time, until all are answered or one fails for good."""

    def __init__(
        self,
        config: JudgeModel,
        endpoint: OpenAIEndpoint,
        response_format: dict[str, Any],
        cache: Cache[Key, Value],
        read: Callable[[Reply], Value],
        progress: Progress,
    ):
        self.config, self.endpoint, self.response_format = config, endpoint, response_format
        self.cache, self.read, self.progress = cache, read, progress
        self.model = config.model
        self.prices, self.budget = Prices(endpoint), Budget(endpoint.budget_usd)
        self.values: dict[Key, Value] = {}
        self.failure: str | None = None
        self.stopped = asyncio.Event()
        self.not_before = 0.0  # a pause that the server asks for holds for all requests

    async def run(self, messages: dict[Key, str]) -> dict[Key, Value]:
        from openai import AsyncOpenAI

        # In a random order, so that two processes that judge the same explanations repeat few of them.
        waiting = iter(random.sample(list(messages.items()), len(messages)))
        async with AsyncOpenAI(
            api_key=read_key(), base_url=server_url(self.endpoint), timeout=self.endpoint.timeout_s, max_retries=0
        ) as client:
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
                        self.failure = self.failure or reply.reason
                        self.stopped.set()
                        return
                    answer = reply.content if reply.refusal is None else reply.refusal
                    said = None if answer is None else without_key(answer)
                    value = await asyncio.to_thread(self.cache.write, key, self.read(reply), said)
                self.values[key] = value
                self.progress.advance(note=f"${self.budget.spent:.2f}" if self.budget.spent else "")
                if self.stopped.is_set():
                    return
        except BaseException:
            self.stopped.set()  # the others only finish their current request
            raise

    async def _ask(self, client: "AsyncOpenAI", message: str) -> Reply | Failure:
        """One message with its retries; the worst case of each attempt is set aside before it is made."""
        worst = self.prices.worst(message, self.config.max_tokens)
        request = chat_request(self.config, self.endpoint, message, self.response_format)
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
                reply = await ask_once(client, request, self.endpoint.timeout_s)
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
