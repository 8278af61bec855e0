"""The pairs that trainings left out, in words."""

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults, estimate


def left_out(results: RunResults) -> list[str]:
    """A sentence for each training whose pairs are known, by iteration."""
    return [sentence for model in results.all_models if (sentence := _sentence(model))]


def _sentence(model: ModelResults) -> str:
    if model.pair_metrics is None:
        return ""
    empty, equal = (estimate(model.pair_metrics, name, "train") for name in ("empty_share", "equal_share"))
    assert empty is not None and equal is not None
    without_text, same = round(empty.value * empty.rows), round(equal.value * equal.rows)
    if not without_text + same:
        return f"{model.name}: all {equal.rows:,} pairs were used."
    reasons = [(same, "both answers are equal"), (without_text, "an explanation is empty")]
    why = [(count, reason) for count, reason in reasons if count]
    total = f"{model.name}: {without_text + same:,} of {equal.rows:,} pairs were left out"
    if len(why) == 1:
        return f"{total} because {why[0][1]}."
    return f"{total}, {' and '.join(f'{count:,} because {reason}' for count, reason in why)}."
