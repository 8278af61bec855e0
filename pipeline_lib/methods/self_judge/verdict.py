"""The verdict of a run for a person who wants a judge of answers."""

from pipeline_lib.methods.self_judge.report import HELD_OUT, Results, difference
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import estimate_of
from pipeline_lib.report.formatting import Column, decimal, estimate_text
from pipeline_lib.report.verdict import ANSWERS, Answer, Point, Verdict

CHANCE = 0.5

LEAST_USEFUL = 0.57
"""A judge whose accuracy is surely below this tells hardly more than a coin."""

_SHARE = Column("share", "Share", 3, 2)


def run_verdict(results: Results) -> Verdict:
    """From the accuracy of the last judge on the first set of pairs, and its paired differences to base and control."""
    base, last = results.judges[0], results.judges[-1]
    name = next(iter(base.metrics))
    accuracy = estimate_of(last.metrics[name], "accuracy")
    able: Answer = "not shown"
    if accuracy.high < LEAST_USEFUL:
        able = "no"
    elif accuracy.low > CHANCE:
        able = "yes"
    pairs = "held-out synthetic pairs" if name == HELD_OUT else f"pairs of known preference ({name})"
    rows = last.judgements[name].num_rows
    figure = (
        f"It is right on {estimate_text(_SHARE, accuracy)} of {rows:,} {pairs}, both orders together; chance is .5."
    )
    truth = ("The preference of synthetic pairs is not the truth.",) if name == HELD_OUT else ()
    found = difference(base.judgements[name], last.judgements[name], "accuracy", results)
    before, after = (estimate_of(judge.metrics[name], "accuracy").value for judge in (base, last))
    gain = (
        f"Accuracy {decimal(before, 3)} before, {decimal(after, 3)} after, difference {estimate_text(_SHARE, found)}."
    )
    word = change(found)
    taught: Answer = "yes" if word == "raised" else "no" if word == "lowered" else "not shown"
    beyond = ("No control says yet what flipped verdicts would give.",)
    if results.control:
        over = difference(results.control[-1].judgements[name], last.judgements[name], "accuracy", results)
        counts = change(over) == "raised"
        taught = taught if counts or taught != "yes" else "no"
        beyond = (
            f"Less its control, which learned flipped verdicts: {estimate_text(_SHARE, over)}"
            + ("." if counts else ", so a gain does not count."),
        )
    steps = []
    if results.recipe.model.id == "bundled" and results.recipe.model.from_run is None:
        steps.append("Take a real model. The bundled one is for trying WhyScore out.")
    if name == HELD_OUT:
        steps.append("Measure it on pairs of known preference: name them in evaluation.pairs.")
    if able != "yes" or taught == "not shown":
        steps.append("Give more images and questions, and more labelled pairs: a narrower interval says more.")
    if not results.control and taught == "yes":
        steps.append("Run `whyscore control` with this recipe: a gain counts only beyond that of flipped verdicts.")
    return Verdict(
        answer=able,
        points=(
            Point(
                question="Can this judge tell the better of two answers?",
                answer=ANSWERS[able],
                reasons=(figure, *truth),
            ),
            Point(question="Did training teach it that?", answer=ANSWERS[taught], reasons=(gain, *beyond)),
        ),
        next_steps=tuple(steps),
    )
