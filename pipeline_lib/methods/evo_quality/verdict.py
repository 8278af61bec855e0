"""The verdict of a run for a person with images, and the round whose model predictions use."""

import math

from pipeline_lib.methods.evo_quality.controls import gain_counts
from pipeline_lib.methods.evo_quality.figures import srcc_difference
from pipeline_lib.methods.evo_quality.report import Results, RoundResults
from pipeline_lib.metrics.figures import once, ordered_share
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import Estimate, estimate_of
from pipeline_lib.report.formatting import Column, bounds_text, decimal, estimate_text, percent
from pipeline_lib.report.verdict import ANSWERS, Answer, Best, Point, Verdict, beyond_chance

CHOSEN_BY = "srcc_mean"
"""The figure on the main labelled data set that decides which round is the best."""

_CORRELATION = Column("srcc", "SRCC", 3, 2)


def run_verdict(results: Results) -> Verdict:
    """The verdict from the main labelled data set; without one it says what votes can say and what they cannot."""
    return _with_labels(results) if results.data_sets else _without_labels(results)


def best_round(results: Results) -> RoundResults:
    """The base or the round with the highest `CHOSEN_BY` on the main labelled data set; of equal ones the earliest."""
    data = results.data_sets[0]
    return max(results.rounds, key=lambda model: _or_lowest(model.on(data, CHOSEN_BY).value))


def _with_labels(results: Results) -> Verdict:
    data, best = results.data_sets[0], best_round(results)
    srcc, spread = best.on(data, CHOSEN_BY), best.on(data, "spread_mean").value
    useful, (taught, *said) = beyond_chance(srcc, alike=spread == 0), _taught(results, best)
    ratings = best.labelled[data][0]
    known = ratings.filter(ratings["mean"].is_valid())
    share = float(ordered_share(known["score"].to_numpy(), known["mean"].to_numpy(), once(known.num_rows))[0])
    figure = (
        f"SRCC of its mean rating on {known.num_rows} labelled images of {data} is {estimate_text(_CORRELATION, srcc)}"
    )
    chance = {
        "yes": "above 0, which is chance",
        "no": "at best hardly more than 0, which is chance",
        "not shown": "it is not shown to be above 0, which is chance",
    }[useful]
    kind = "ranking" if best.round_number else "zero-shot"
    points = (
        Point(
            question="Can this model tell good images from bad ones?",
            answer=ANSWERS[useful],
            reasons=(
                f"The model of {_named(best)} gives the better of two labelled images the higher rating in"
                f" {percent(round(share, 2))} of all pairs; chance is 50 %.",
                f"{figure}: {chance}.",
            ),
        ),
        Point(question="Did voting and ranking teach it that?", answer=ANSWERS[taught], reasons=tuple(said)),
        Point(
            question="How far off is its rating?",
            answer="Its ratings are from 1 to 5, not on your own scale.",
            reasons=("They put images in order; the method never sees your scale, so an error on it has no meaning.",),
        ),
        Point(
            question="Which model is the best?",
            answer=f"That of {_named(best)}.",
            reasons=(
                f"It has the highest SRCC of the mean rating on {data}, {decimal(srcc.value, 3)}. The same labelled"
                " images choose and measure, so its figures are slightly too good. Predictions use this model.",
            ),
        ),
    )
    warnings = []
    if useful == "no":
        warnings.append(f"the model of {_named(best)} cannot tell good images from bad ones ({figure})")
    elif useful == "not shown":
        warnings.append(
            f"it is not shown that the model of {_named(best)} can tell good images from bad ones ({figure})"
        )
    if taught == "no":
        warnings.append(f"voting and ranking did not make the model better: {' '.join(said)}")
    return Verdict(
        answer=useful,
        points=points,
        next_steps=tuple(_next_steps(results, useful, taught)),
        best=Best(
            iteration=best.round_number,
            kind=kind,
            rule=f"the highest SRCC of the mean rating on {data}, of equal ones the earliest",
            value=_or_lowest(srcc.value),
        ),
        warnings=tuple(warnings),
    )


def _taught(results: Results, best: RoundResults) -> tuple[Answer, *tuple[str, ...]]:
    data, base = results.data_sets[0], results.rounds[0]
    if best is base:
        return "no", f"No round orders the images of {data} better than the base model does without training."
    difference = srcc_difference(
        base.labelled[data][0], best.labelled[data][0], "mean", results.recipe.evaluation.bootstrap, results.recipe.seed
    )
    before, after = (model.on(data, CHOSEN_BY).value for model in (base, best))
    figures = (
        f"SRCC of the mean rating on {data}: {decimal(before, 3)} before, {decimal(after, 3)} after {_named(best)},"
        f" difference {estimate_text(_CORRELATION, difference)}."
    )
    word = change(difference)
    if word == "lowered":
        return "no", figures, "Training lowered it."
    if word != "raised":
        return "not shown", figures, "The interval of the difference holds 0, so no gain is shown."
    if results.controls is None or best is not results.rounds[-1]:
        return "yes", figures, "No control says yet how much of it shuffled votes would give."
    counts = gain_counts(results.controls, "mean")
    if counts is None:
        return "not shown", figures, "The control could not be compared."
    if counts:
        return "yes", figures, "The gain is beyond the control, which learned shuffled votes."
    return "no", figures, "The gain is not beyond the control, which learned shuffled votes, so it does not count."


def _without_labels(results: Results) -> Verdict:
    last = results.rounds[-1]
    before, after = (estimate_of(model.held_out, "vote_agreement_mean") for model in (results.rounds[0], last))
    return Verdict(
        answer="not shown",
        points=(
            Point(
                question="Can this model tell good images from bad ones?",
                answer="Nothing can be said without labels.",
                reasons=(
                    "No person has rated an image of this run, so nothing shows whether people would agree.",
                    f"What can be said: its ratings order {_share(after)} of {after.rows} held-out pairs as the base"
                    f" model’s votes do; before training it was {_share(before)}. Votes are no truth.",
                ),
            ),
        ),
        next_steps=(
            "Let people rate some images, 100 or more, and name them in evaluation.labelled. They measure, and train"
            " nothing.",
            *_real_model(results),
        ),
        warnings=("no labels show whether people would agree with these ratings",),
    )


def _next_steps(results: Results, useful: Answer, taught: Answer) -> list[str]:
    data = results.data_sets[0]
    steps = _real_model(results)
    count = results.rounds[0].labelled[data][0].num_rows
    srcc = best_round(results).on(data, CHOSEN_BY)
    if not srcc.high - srcc.low <= 0.2:
        steps.append(
            f"Give more labelled images: with {count:,}, the interval of SRCC, {bounds_text(_CORRELATION, srcc)}, is"
            " wide."
        )
    if useful != "yes" or taught == "not shown":
        steps.append(f"Give more images without labels; this run had {results.images.num_rows:,}.")
    if results.controls is None and taught == "yes":
        steps.append("Run `whyscore control` with this recipe: a gain counts only beyond that of shuffled votes.")
    if useful == "yes":
        steps.append("Look at the pairs of images in the report, then rate your own: `whyscore predict`.")
    return steps


def _real_model(results: Results) -> list[str]:
    model = results.recipe.model
    if model.id != "bundled" or model.from_run is not None:
        return []
    return ["Take a real model. The bundled one is for trying WhyScore out; recipes/evo_quality/paper/ has some."]


def _share(estimate: Estimate) -> str:
    return percent(round(estimate.value, 2))


def _named(model: RoundResults) -> str:
    return model.name if model.round_number else "the base"


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -1.0
