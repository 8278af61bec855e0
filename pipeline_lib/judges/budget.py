"""The cost of judging: an estimate before the first request, and a limit that holds while requests are in flight.

Tokens are not counted with the model's own tokenizer, which is not known here. A token of any byte-level vocabulary
covers at least one byte of UTF-8, so there are at most as many tokens as bytes. The limit reserves this cost until the
server reports the true one. The estimate divides by three bytes a token (English has about 4.5, so it is some 40 % too
high) and takes the longest answer for every explanation.
"""

import asyncio
import math
from collections.abc import Iterable

from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.errors import RecipeError
from pipeline_lib.judges.chat_request import Reply

BYTES_PER_TOKEN = 3
REQUEST_OVERHEAD_BYTES = 600
"""Chat template and the schema of the structured output, which servers may put into the prompt."""


class Prices:
    """US dollars a token; 0 if the recipe gives no price."""

    def __init__(self, endpoint: OpenAIEndpoint):
        self.input = (endpoint.usd_per_million_input_tokens or 0.0) / 1e6
        self.output = (endpoint.usd_per_million_output_tokens or 0.0) / 1e6

    def estimate(self, messages: Iterable[str], max_tokens: int) -> float:
        """The estimated cost of these messages, rather too high than too low."""
        tokens = [math.ceil(_bytes(message) / BYTES_PER_TOKEN) for message in messages]
        return sum(tokens) * self.input + len(tokens) * max_tokens * self.output

    def worst(self, message: str, max_tokens: int) -> float:
        """An upper bound of the cost of one request."""
        return _bytes(message) * self.input + max_tokens * self.output

    def actual(self, reply: Reply) -> float | None:
        """The true cost of an answer; None when the server does not report it, or what cannot be."""
        if reply.input_tokens is None or reply.output_tokens is None:
            return None
        return reply.input_tokens * self.input + reply.output_tokens * self.output


class Budget:
    """Spent dollars and those reserved for requests in flight; together never above the limit."""

    def __init__(self, limit_usd: float | None):
        self.limit = math.inf if limit_usd is None else limit_usd
        self.spent = self.reserved = 0.0
        self._changed = asyncio.Condition()

    async def reserve(self, worst: float) -> bool:
        """Set aside the worst case of a request, waiting for those in flight if need be; False when it cannot fit."""
        async with self._changed:
            while self.spent + self.reserved + worst > self.limit + 1e-9:
                if self.reserved <= 1e-12:
                    return False
                await self._changed.wait()
            self.reserved += worst
            return True

    async def settle(self, worst: float, actual: float) -> None:
        """Replace the reserved cost of a request by its true cost."""
        async with self._changed:
            self.reserved = max(0.0, self.reserved - worst)
            self.spent += actual
            self._changed.notify_all()


def check_estimate(estimate_usd: float, endpoint: OpenAIEndpoint) -> None:
    """Raise `RecipeError` when the estimate is above the budget, before anything is spent."""
    if endpoint.budget_usd is not None and estimate_usd > endpoint.budget_usd:
        raise RecipeError(
            f"judging would cost about ${estimate_usd:.2f}, runtime.openai.budget_usd is ${endpoint.budget_usd:.2f};"
            " nothing was asked. Raise the budget, or judge fewer rows (judge.rows)"
        )


def _bytes(message: str) -> int:
    return len(message.encode()) + REQUEST_OVERHEAD_BYTES
