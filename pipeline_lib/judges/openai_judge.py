"""The judge model of section 4.3 behind an OpenAI-compatible server: each explanation is graded once, ever."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.errors import JudgeError
from pipeline_lib.judges.budget import Budget, Prices, check_estimate
from pipeline_lib.judges.chat_request import ask_once, chat_request
from pipeline_lib.judges.endpoint import check_endpoint, read_key, server_name, server_url, without_key
from pipeline_lib.judges.verdict import ASPECTS, Reply, Verdict, read_verdict
from pipeline_lib.judges.verdict_cache import Question, VerdictCache
from pipeline_lib.methods.self_improve.prompt import Criterion
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.methods.self_improve.rubric import Rubric
from pipeline_lib.methods.self_improve.tables import VERDICTS
from pipeline_lib.openai_server import Failure, back_off_s
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger("whyscore.judge")


def ask_judge(
    config: OpenAIJudge,
    endpoint: OpenAIEndpoint,
    rubric: Rubric,
    criterion: Criterion,
    predictions: pa.Table,
    store: ArtifactStore,
    label: str,
) -> pa.Table:
    """A verdict for every prediction, in `VERDICTS`.

    Only explanations that this judge has never graded for this score and rubric are sent; each verdict is in the store
    before the next is asked for. Answers that did not parse are `unparsed` and never sent; a refusal or an answer off
    the scale is kept as `refused` or `malformed`, without grades. Raises `RecipeError` before the first request when it
    would be too dear or cannot be made, `JudgeError` when the server fails for good or the budget is spent.
    """
    if config.model is None:
        raise JudgeError("judge.openai.model names no judge")
    rows = predictions.select(["image", "image_sha256", "split", "stated_score", "explanation"]).to_pylist()
    for row in rows:
        text = row.pop("explanation")
        row["question"] = None if text is None else Question(row["stated_score"], text)
    questions = list(dict.fromkeys(row["question"] for row in rows if row["question"]))
    cache = VerdictCache(store, config.model, rubric.digest(criterion), config.max_tokens)
    verdicts = cache.find(questions)
    messages = {asked: rubric.message(criterion, *asked) for asked in questions if asked not in verdicts}
    if messages:
        check_endpoint(endpoint)
    _preview(config, endpoint, messages, len(questions))
    if messages:
        progress = Progress(label, len(questions), unit="explanations")
        progress.skip(len(verdicts))
        verdicts |= asyncio.run(_Asking(config, endpoint, cache, progress).run(messages))
    _tell_unscored(config.model, [verdicts[asked] for asked in questions])
    return pa.Table.from_pylist([_row(row, config.model, verdicts) for row in rows], schema=VERDICTS.schema)


def _row(row: dict[str, object], judge: str, verdicts: dict[Question, Verdict]) -> dict[str, object]:
    question = row.pop("question")
    verdict = verdicts[question] if isinstance(question, Question) else None
    grades = {aspect: getattr(verdict, aspect, None) for aspect in ASPECTS}
    return row | {"judge": judge, "status": verdict.status if verdict else "unparsed", "recovered_score": None} | grades


def _preview(config: OpenAIJudge, endpoint: OpenAIEndpoint, messages: dict[Question, str], total: int) -> None:
    line = f"judge {config.model}: {total:,} explanations, {total - len(messages):,} already judged"
    estimate = Prices(endpoint).estimate(messages.values(), config.max_tokens)
    if messages and endpoint.usd_per_million_input_tokens is not None:
        limit = "" if endpoint.budget_usd is None else f" (limit ${endpoint.budget_usd:.2f})"
        line += f", about ${estimate:.2f} for the rest{limit}"
    log.info("%s%s", line, f", at {server_name(endpoint)}" if messages else "")
    if messages:
        check_estimate(estimate, endpoint)


def _tell_unscored(judge: str, verdicts: list[Verdict]) -> None:
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.status != "scored")
    if reasons:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        log.warning("judge %s: %s of %s explanations unscored: %s", judge, reasons.total(), len(verdicts), counts)


class _Asking:
    """Questions to a server, several at a time, until all are answered or one cannot be."""

    def __init__(self, config: OpenAIJudge, endpoint: OpenAIEndpoint, cache: VerdictCache, progress: Progress):
        self.config, self.endpoint, self.cache, self.progress = config, endpoint, cache, progress
        self.model = cache.judge
        self.prices, self.budget = Prices(endpoint), Budget(endpoint.budget_usd)
        self.verdicts: dict[Question, Verdict] = {}
        self.failure: str | None = None
        self.stopped = asyncio.Event()
        self.not_before = 0.0  # a server that asks for a pause asks it of all

    async def run(self, messages: dict[Question, str]) -> dict[Question, Verdict]:
        from openai import AsyncOpenAI

        # In an order of its own: two processes that judge the same explanations meet in few of them.
        waiting = iter(random.sample(list(messages.items()), len(messages)))
        async with AsyncOpenAI(
            api_key=read_key(), base_url=server_url(self.endpoint), timeout=self.endpoint.timeout_s, max_retries=0
        ) as client:
            workers = [self._work(client, waiting) for _ in range(min(self.endpoint.concurrency, len(messages)))]
            ends = await asyncio.gather(*workers, return_exceptions=True)  # all end by themselves: answers are paid for
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        if self.failure:
            raise JudgeError(
                f"judge {self.model} at {server_name(self.endpoint)}: {self.failure}. {len(self.verdicts):,} of"
                f" {len(messages):,} verdicts arrived and are kept; run again to ask for the rest"
            )
        if self.prices.input or self.prices.output:
            log.info("judge %s: %s answers for $%.4f", self.model, f"{len(messages):,}", self.budget.spent)
        return self.verdicts

    async def _work(self, client: "AsyncOpenAI", waiting: Iterator[tuple[Question, str]]) -> None:
        try:
            for question, message in waiting:
                verdict = await asyncio.to_thread(self.cache.read, question)  # another process may have asked meanwhile
                if verdict is None:
                    reply = await self._ask(client, message)
                    if isinstance(reply, Failure):
                        self.failure = self.failure or reply.reason
                        self.stopped.set()
                        return
                    answer = reply.content if reply.refusal is None else reply.refusal
                    said = None if answer is None else without_key(answer)
                    verdict = await asyncio.to_thread(self.cache.write, question, read_verdict(reply), said)
                self.verdicts[question] = verdict
                self.progress.advance(note=f"${self.budget.spent:.2f}" if self.budget.spent else "")
                if self.stopped.is_set():
                    return
        except BaseException:
            self.stopped.set()  # the others finish the request they are at, and no more
            raise

    async def _ask(self, client: "AsyncOpenAI", message: str) -> Reply | Failure:
        """One question with its retries; the worst case of each attempt is set aside before it is made."""
        worst = self.prices.worst(message, self.config.max_tokens)
        request = chat_request(self.config, self.endpoint, message)
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
                if self.stopped.is_set():  # while it waited for its share of the budget
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
