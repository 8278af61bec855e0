"""The judge model of section 4.3 behind an OpenAI-compatible server: each explanation is graded only once."""

import logging
from collections import Counter

import pyarrow as pa

from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.errors import JudgeError
from pipeline_lib.judges.ask import ask_all
from pipeline_lib.judges.budget import Prices, check_estimate
from pipeline_lib.judges.endpoint import check_endpoint, server_name
from pipeline_lib.methods.self_improve.prompt import Criterion
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.methods.self_improve.rubric import Rubric
from pipeline_lib.methods.self_improve.tables import VERDICTS
from pipeline_lib.methods.self_improve.verdict import ASPECTS, RESPONSE_FORMAT, Verdict, malformed, read_verdict
from pipeline_lib.methods.self_improve.verdict_cache import ScoredText, cache_of
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore

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

    Only explanations that this judge has never graded for this score, with this rubric and these settings, are sent;
    each verdict is in the store before the next request. Answers that did not parse are `unparsed` and never sent; a
    refusal or an answer off the scale is kept as `refused` or `malformed`, without grades. A malformed one is sent
    again. Raises `RecipeError` before the first request when judging would be too expensive or is not possible,
    `JudgeError` when the server fails for good, the budget is spent, or no answer of the judge can be used.
    """
    if config.model is None:
        raise JudgeError("judge.openai.model is not set; name a judge model")
    rows = predictions.select(["image", "image_sha256", "split", "group", "stated_score", "explanation"]).to_pylist()
    for row in rows:
        text = row.pop("explanation")
        row["question"] = None if text is None else ScoredText(row["stated_score"], text)
    questions = list(dict.fromkeys(row["question"] for row in rows if row["question"]))
    cache = cache_of(store, config, rubric, criterion)
    stored = cache.find(questions)
    verdicts = {asked: verdict for asked, verdict in stored.items() if not malformed(verdict)}
    messages = {asked: rubric.message(criterion, *asked) for asked in questions if asked not in verdicts}
    if messages:
        check_endpoint(endpoint)
    _preview(config, endpoint, messages, len(questions))
    if messages:
        progress = Progress(label, len(questions), unit="explanations")
        progress.skip(len(verdicts))
        again = stored.keys() - verdicts.keys()
        verdicts |= ask_all(
            config, endpoint, RESPONSE_FORMAT, cache, read_verdict, malformed, messages, progress, again
        )
        _refuse_when_all_are_malformed(config.model, endpoint, [verdicts[asked] for asked in questions])
    _tell_unscored(config.model, [verdicts[asked] for asked in questions])
    return pa.Table.from_pylist([_row(row, config.model, verdicts) for row in rows], schema=VERDICTS.schema)


def _row(row: dict[str, object], judge: str, verdicts: dict[ScoredText, Verdict]) -> dict[str, object]:
    question = row.pop("question")
    verdict = verdicts[question] if isinstance(question, ScoredText) else None
    grades = {aspect: getattr(verdict, aspect, None) for aspect in ASPECTS}
    return row | {"judge": judge, "status": verdict.status if verdict else "unparsed", "recovered_score": None} | grades


def _refuse_when_all_are_malformed(model: str, endpoint: OpenAIEndpoint, verdicts: list[Verdict]) -> None:
    """Also with few explanations no stage is finished on answers that all came from a wrong setting."""
    if all(malformed(verdict) for verdict in verdicts):
        reasons = ", ".join(sorted({str(verdict.reason) for verdict in verdicts}))
        raise JudgeError(
            f"judge {model} at {server_name(endpoint)}: all {len(verdicts):,} answers are malformed ({reasons}); they"
            ' are in the store under judge_cache/, see docs/judge.md, "Malformed answers". Run again to ask again'
        )


def _preview(config: OpenAIJudge, endpoint: OpenAIEndpoint, messages: dict[ScoredText, str], total: int) -> None:
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
