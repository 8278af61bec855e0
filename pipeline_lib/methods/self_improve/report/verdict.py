"""The conclusions of a run, in sentences that follow from paired differences by one rule (`intervals.change`)."""

import math

import numpy as np

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.control_figures import estimates_of, metrics_of, outcome
from pipeline_lib.methods.self_improve.report.lineage import (
    final,
    first_trained,
    on_split,
    unparsed_answers,
    zero_shot,
)
from pipeline_lib.metrics.intervals import FEWEST_GROUPS, effective_groups, intervals_too_narrow
from pipeline_lib.report.formatting import (
    CONS,
    CONS_CORRECTED,
    MAE_STATED,
    PARSE_RATE,
    SRCC_STATED,
    Column,
    bounds_text,
    decimal,
    percent,
    score_column,
    value_text,
)

_NAMES = {CONS: "Cons", CONS_CORRECTED: "corrected Cons", PARSE_RATE: "the parse rate", MAE_STATED: "the stated MAE"}


def verdict(results: RunResults) -> list[str]:
    """A conclusion, then the sentences that support it.

    "Raised" and "lowered" mean that the interval of the paired difference on the same test images is above or below 0;
    else no difference is shown. With a control, the conclusion says whether a gain goes beyond it (`outcome`).
    """
    base, first, last = zero_shot(results), first_trained(results), final(results)
    if first is base:
        return ["Nothing was trained in this run."]
    sentences = [_conclusion(results)]
    own, stated = used_srcc(results), SRCC_STATED
    cons = cons_column(results)
    sentences.append(_said(results, base, last, (own, stated, MAE_STATED)))
    sentences.append(_said(results, base, last, (cons, PARSE_RATE)))
    if last is not first:
        sentences.append(_said(results, first, last, (own, stated, cons)))
    return [*sentences, *narrow_intervals(results), *collapses(results)]


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


def narrow_intervals(results: RunResults) -> list[str]:
    """A sentence when the test images have so few groups that 95 % intervals are too narrow."""
    groups = np.array(on_split(zero_shot(results).predictions, "test")["group"].to_pylist())
    if not intervals_too_narrow(groups):
        return []
    count = f"{len(np.unique(groups))} groups"
    return [
        f"The test images are of {count}, which count as {decimal(effective_groups(groups), 1)} of equal size. With"
        f" fewer than {FEWEST_GROUPS}, intervals are too narrow: read every “raised” and “lowered” with doubt."
    ]


def used_srcc(results: RunResults) -> Column:
    """SRCC of the reading that predictions use."""
    return score_column("srcc", results.reading)


def cons_column(results: RunResults) -> Column:
    """Cons corrected for chance where the leading judge has it, else Cons."""
    return CONS_CORRECTED if zero_shot(results).has(CONS_CORRECTED.metric) else CONS


def _conclusion(results: RunResults) -> str:
    base, first, last = zero_shot(results), first_trained(results), final(results)
    if last.is_collapsed(results.recipe.evaluation.min_parse_rate):
        return f"The final model, {last.name}, collapsed: too few of its texts have the required form."
    own = used_srcc(results)
    words = {_change(results, base, last, column) for column in (own, SRCC_STATED)}
    if words == {"raised"}:
        gain = "Self-training raised SRCC on test, of the stated score and of the prediction"
    elif "lowered" in words:
        gain = "Self-training lowered SRCC on test" if words == {"lowered"} else "The readings of the score disagree"
    elif "raised" in words:
        of = "the stated score" if _change(results, base, last, SRCC_STATED) == "raised" else "the prediction"
        gain = f"Self-training raised SRCC on test of {of} alone"
    else:
        gain = "Self-training showed no difference of SRCC on test"
    gain += _against_control(results, (SRCC_STATED, own))
    if last is first:
        return f"{gain}."
    cons = cons_column(results)
    lost = [_name(column) for column in (own, cons) if _change(results, first, last, column) == "lowered"]
    return f"{gain}; compared with {first.name}, the final model lowered {' and '.join(lost)}." if lost else f"{gain}."


def _against_control(results: RunResults, columns: tuple[Column, ...]) -> str:
    """What the control says of the readings that rose; empty without a control, and when none rose."""
    if results.control is None:
        return ""
    outcomes = {
        column: outcome(estimates_of(results.control, column.metric))
        for column in columns
        if column.metric in metrics_of(results.control)
    }
    beyond, not_beyond = (
        [_name(column) for column, found in outcomes.items() if found == wanted]
        for wanted in ("counts", "does not count")
    )
    if not_beyond:
        return f", but {' and '.join(not_beyond)} not beyond its control, so this gain does not count"
    return ", beyond its control" if beyond else ""


def _change(results: RunResults, earlier: ModelResults, later: ModelResults, column: Column) -> str:
    found = results.difference(earlier, later, column.metric)
    return found.change if found else "no difference shown"


def _said(results: RunResults, earlier: ModelResults, later: ModelResults, columns: tuple[Column, ...]) -> str:
    *parts, end = (_compared(results, earlier, later, column) for column in columns)
    return f"Compared with {earlier.name}, {later.name} {', '.join(parts)} and {end}."


def _compared(results: RunResults, earlier: ModelResults, later: ModelResults, column: Column) -> str:
    before, after = (model.metric_or_nan(column.metric) for model in (earlier, later))
    name = _name(column)
    figures = f"{value_text(column, before)} to {value_text(column, after)}"
    found = results.difference(earlier, later, column.metric)
    if found is None or math.isnan(found.value):
        return f"has no comparable {name} ({figures})"
    sign = "+" if found.value > 0 else ""
    precise = column._replace(bound_decimals=column.decimals)
    interval = bounds_text(precise, before._replace(value=found.value, low=found.low, high=found.high))
    difference = f"difference {sign}{decimal(found.value, column.decimals)} {interval}".rstrip()
    if found.change == "no difference shown":
        return f"shows no difference of {name} ({figures}, {difference})"
    return f"{found.change} {name} ({figures}, {difference})"


def _name(column: Column) -> str:
    figure, _, reading = column.heading.partition(" ")
    return _NAMES.get(column, f"{reading} {figure}")
