"""The conclusions of a run, in sentences that follow from its figures and their intervals."""

import math

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.lineage import final, first_trained, unparsed_answers, zero_shot
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import CONS, PARSE_RATE, SRCC_UNFITTED, Column, estimate_text, percent, value_text


def verdict(results: RunResults) -> list[str]:
    """A conclusion, then the sentences that support it.

    "Raised" and "lost" mean that the bootstrap intervals share no point. This is cautious: all models answer the same
    images, so a paired test would find more differences. "Kept" means that a figure is within the earlier interval.
    """
    base, first, last = zero_shot(results), first_trained(results), final(results)
    if first is base:
        return ["Nothing was trained in this run."]
    sentences = [_conclusion(results), _first_iteration(results, base, first)]
    if last is not first:
        kept = " and ".join(_beside(column, first, last) for column in (SRCC_UNFITTED, CONS))
        sentences.append(f"Compared with {first.name}, the final model ({last.name}) {kept}.")
    against_base = " and ".join(_beside(column, base, last) for column in (CONS, PARSE_RATE))
    sentences.append(f"Compared with zero-shot, {last.name} {against_base}.")
    return [*sentences, *collapses(results)]


def collapses(results: RunResults) -> list[str]:
    """A sentence for every collapsed model: how many texts did not parse, and what that means."""
    sentences = []
    for model in results.models:
        if model.is_collapsed(results.recipe.evaluation.min_parse_rate):
            rows, unparsed = model.metric("parse_rate").rows, unparsed_answers(model)
            sentences.append(
                f"{model.name} collapsed: {unparsed} of {rows} test texts did not parse (the limit is a parse rate of"
                f" {percent(results.recipe.evaluation.min_parse_rate)}). Its Cons is the mean of"
                f" {model.metric('cons').rows} explanations."
            )
    return sentences


def intervals_apart(a: Estimate, b: Estimate) -> bool:
    """Whether both intervals are defined and share no point."""
    return a.high < b.low or b.high < a.low


def _conclusion(results: RunResults) -> str:
    base, first, last = zero_shot(results), first_trained(results), final(results)
    if last.is_collapsed(results.recipe.evaluation.min_parse_rate):
        return f"The final model, {last.name}, collapsed: too few of its texts have the required form."
    by = "By unfitted SRCC,"  # Fig. 1 shows the fitted one, and on few images the two can disagree
    before, after = base.metric(SRCC_UNFITTED.metric), first.metric(SRCC_UNFITTED.metric)
    if not after.value > before.value:
        return f"{by} self-training did not show a gain in scoring."
    if not intervals_apart(before, after):
        return f"{by} scoring rose, but the intervals overlap, so this may be chance."
    if last is first:
        return f"{by} self-training improved scoring."
    lost = [column.heading for column in (SRCC_UNFITTED, CONS) if _fell(first, last, column)]
    if lost:
        return f"{by} self-training improved scoring, but the final model did not keep ite-1’s {' and '.join(lost)}."
    return f"{by} self-training improved scoring, and the final model lost neither ite-1’s SRCC nor its Cons."


def _fell(first: ModelResults, last: ModelResults, column: Column) -> bool:
    before, after = first.metric(column.metric), last.metric(column.metric)
    return math.isnan(after.value) or after.value < before.low


def _first_iteration(results: RunResults, base: ModelResults, first: ModelResults) -> str:
    before, after = base.metric(SRCC_UNFITTED.metric), first.metric(SRCC_UNFITTED.metric)
    figures = f"from {estimate_text(SRCC_UNFITTED, before)} to {estimate_text(SRCC_UNFITTED, after)}"
    if math.isnan(before.value) or math.isnan(after.value):
        return f"Unfitted SRCC cannot be compared ({figures}): constant predictions have no SRCC."
    verb = "raised" if after.value > before.value else "lowered" if after.value < before.value else "did not change"
    overlap = "do not overlap" if intervals_apart(before, after) else "overlap"
    level = percent(results.recipe.evaluation.confidence)
    return f"Iteration 1 {verb} unfitted SRCC on test {figures}; the two {level} intervals {overlap}."


def _beside(column: Column, earlier: ModelResults, last: ModelResults) -> str:
    before, after = earlier.metric(column.metric), last.metric(column.metric)
    name = {SRCC_UNFITTED: "unfitted SRCC", CONS: "Cons", PARSE_RATE: "its parse rate"}[column]
    figures = f"{value_text(column, before)} to {value_text(column, after)}"
    if math.isnan(before.value) or math.isnan(after.value):
        return f"has no comparable {name} ({figures})"
    if intervals_apart(before, after):
        return f"{'raised' if after.value > before.value else 'lost'} {name} ({figures}, intervals apart)"
    if before.low <= after.value <= before.high:
        return f"kept {name} ({figures}, within the earlier interval)"
    side = "above" if after.value > before.high else "below"
    return f"moved {name} {side} the earlier interval ({figures}, though the two intervals overlap)"
