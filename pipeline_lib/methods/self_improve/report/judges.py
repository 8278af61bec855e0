"""Who rated the explanations of a run, whether the figures compare with the paper's, and whether two judges agree."""

from typing import NamedTuple

import pyarrow as pa

from pipeline_lib.methods.self_improve.report.contents import Judged, RunResults, estimate
from pipeline_lib.methods.self_improve.report.lineage import on_split
from pipeline_lib.methods.self_improve.report.paper_settings import PAPER_JUDGE
from pipeline_lib.metrics.agreement import Agreement, judge_agreement
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import CONS, GEN, USE, Column

ROUND_TRIP = "the local round-trip judge"


class JudgePair(NamedTuple):
    """The grades of two judges for one model's explanations on test, or for all models'."""

    name: str
    first: Estimate | None  # Cons by the leading judge; None for all models together
    second: Estimate | None  # Cons by the round-trip judge
    agreement: Agreement


def lead_judge(results: RunResults) -> str:
    """The name of the judge whose Cons the report shows."""
    return results.recipe.judge.openai.model or ROUND_TRIP


def judged_columns(results: RunResults) -> tuple[Column, ...]:
    """Cons, and Use and Gen where the leading judge rated them."""
    return CONS, *(column for column in (USE, GEN) if any(model.has(column.metric) for model in results.models))


def is_papers_judge(results: RunResults) -> bool:
    """Whether figures of the leading judge compare with the paper's: same judge model, same rubric."""
    judge = results.recipe.judge.openai
    return judge.model == PAPER_JUDGE and judge.rubric == "paper"


def who_judged(results: RunResults) -> str:
    """Who rated the explanations, and which figures must not be compared with these."""
    judge = results.recipe.judge.openai
    if judge.model is None:
        return (
            f"{ROUND_TRIP.capitalize()} rates Cons (0 to 4), not the paper’s GPT-4o; do not compare it with the paper’s"
            " Cons."
        )
    headings = [column.heading for column in judged_columns(results)]
    what = f"{', '.join(headings[:-1])} and {headings[-1]}" if len(headings) > 1 else headings[0]
    rates = f"{judge.model} rates {what} (0 to 4)"
    if is_papers_judge(results):
        return f"{rates}. It is the judge of the paper, with the paper’s rubric."
    is_model = judge.model == PAPER_JUDGE
    other = f" with the rubric “{judge.rubric}”, not the paper’s" if is_model else f", not the paper’s {PAPER_JUDGE}"
    return f"{rates}{other}; do not compare the figures with the paper’s."


def unscored(results: RunResults) -> str:
    """How many explanations have no usable verdict of the leading judge; empty when all have one."""
    found = []
    for model in results.models:
        statuses = on_split(model.judged.verdicts, "test")["status"].to_pylist()
        counts = {status: statuses.count(status) for status in ("refused", "malformed")}
        if any(counts.values()):
            given = len(statuses) - statuses.count("unparsed")
            why = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
            found.append(f"{model.name} {sum(counts.values())} of {given} ({why})")
    return f"Explanations without a usable verdict, left out of the means: {'; '.join(found)}." if found else ""


def judge_pairs(results: RunResults) -> list[JudgePair]:
    """Agreement of the leading and the round-trip judge for each model and for all together; empty with one judge."""
    both = [(model, model.second) for model in results.models if model.second is not None]
    if not both:
        return []
    pairs = [
        JudgePair(
            model.name, _cons(model.judged), _cons(second), _agreement(results, model.judged.verdicts, second.verdicts)
        )
        for model, second in both
    ]
    first, second = (
        pa.concat_tables(tables) for tables in ([m.judged.verdicts for m, _ in both], [s.verdicts for _, s in both])
    )
    return [*pairs, JudgePair("all models", None, None, _agreement(results, first, second))]


def _agreement(results: RunResults, first: pa.Table, second: pa.Table) -> Agreement:
    evaluation = results.recipe.evaluation
    return judge_agreement(
        first,
        second,
        split="test",
        samples=evaluation.bootstrap_samples,
        confidence=evaluation.confidence,
        seed=results.recipe.seed,
    )


def _cons(judged: Judged) -> Estimate | None:
    return estimate(judged.metrics, CONS.metric, "test")
