"""The verdict of a run for a person with images, and the model that predictions use."""

import math
from typing import NamedTuple

import numpy as np

from pipeline_lib.methods.self_improve.before_run import FEW_VALIDATION_IMAGES
from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.control_figures import estimates_of, metrics_of, outcome
from pipeline_lib.methods.self_improve.report.lineage import final, main_line, on_split, zero_shot
from pipeline_lib.methods.self_improve.report.verdict import narrow_intervals, used_srcc
from pipeline_lib.metrics.figures import mae, mean, once, ordered_share
from pipeline_lib.metrics.intervals import change, grouped_estimates
from pipeline_lib.metrics.readings import MONOTONE_FROM
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import SRCC_UNFITTED, bounds_text, decimal, estimate_text, percent, plain_number
from pipeline_lib.report.verdict import ANSWERS, Answer, Best, Point, Verdict, beyond_chance

CHOSEN_BY = "srcc_unfitted"
"""The figure on validation that decides which model is the best. Nothing of it is fitted on validation, and it ranks
images as the monotone reading does, which only moves and stretches it."""

WIDE = 0.2
"""Width of the interval of SRCC from which on more test images are advised."""

FLAT = 0.1
"""Spread of the predictions, as a share of that of the true scores, below which they hardly differ."""


def best_model(results: RunResults) -> ModelResults:
    """The model with the highest `CHOSEN_BY` on validation; of equal ones the earliest, which is the simplest.

    Candidates are the base and every model that an iteration ended with, but for collapsed ones (by the parse rate on
    validation) if there are others. A figure that is not defined is below all others.
    """
    limit, line = results.recipe.evaluation.min_parse_rate, main_line(results)
    sound = [model for model in line if not model.metric_or_nan("parse_rate", "val").value < limit]
    return max(sound or line, key=lambda model: _or_lowest(model.metric_or_nan(CHOSEN_BY, "val").value))


def plain_verdict(results: RunResults) -> Verdict:
    """Whether the best model is of use, whether training made it so, how far off it is, and what to do next.

    Every sentence on a difference follows from the paired interval on the same test images, as in the report.
    """
    best = best_model(results)
    srcc = best.metric_or_nan(used_srcc(results).metric)
    predicted = on_split(best.predictions, "test")[f"predicted_{results.reading}"].to_numpy()
    answer, taught = beyond_chance(srcc, alike=len(np.unique(predicted)) == 1), _taught(results, best)
    value = best.metric_or_nan(CHOSEN_BY, "val").value
    rule = f"the highest {SRCC_UNFITTED.heading} on validation, of equal ones the earliest"
    return Verdict(
        answer=answer,
        points=(
            Point(
                question="Can this model tell good images from bad ones?",
                answer=ANSWERS[answer],
                reasons=_useful(results, best, srcc, answer),
            ),
            Point(question="Did training teach it that?", answer=taught.words, reasons=taught.reasons),
            _how_far_off(results, best),
            _which_is_best(results, best),
        ),
        next_steps=tuple(_next_steps(results, best, answer, taught.answer)),
        best=Best(iteration=best.iteration, kind=best.kind, rule=rule, value=_or_lowest(value)),
        warnings=tuple(_warnings(results, best, answer, taught)),
    )


class _Taught(NamedTuple):
    answer: Answer
    words: str
    reasons: tuple[str, ...]


def _useful(results: RunResults, best: ModelResults, srcc: Estimate, answer: Answer) -> tuple[str, ...]:
    test = on_split(best.predictions, "test")
    share = ordered_share(
        test["score"].to_numpy(), test[f"predicted_{results.reading}"].to_numpy(), once(test.num_rows)
    )[0]
    column = used_srcc(results)
    found = (
        f"{best.name} gives the better of two test images the higher score in {percent(round(float(share), 2))} of all"
        " pairs; chance is 50 %."
    )
    figure = f"{column.heading} on {test.num_rows} test images is {estimate_text(column, srcc)}"
    if answer == "yes":
        return found, f"{figure}: above 0, which is chance."
    if not math.isfinite(srcc.value) and answer == "no":
        return found, f"It gives all {test.num_rows} test images one score."
    if answer == "no":
        return found, f"{figure}: at best hardly more than 0, which is chance."
    known = math.isfinite(srcc.high - srcc.low)
    why = "the interval holds 0, which is chance" if known else "there is no interval, which needs more test images"
    return found, f"{figure}: {why}."


def _taught(results: RunResults, best: ModelResults) -> _Taught:
    base, column = zero_shot(results), used_srcc(results)
    if len(main_line(results)) == 1:
        return _Taught("no", "No.", ("Nothing was trained in this run.",))
    if best is base:
        said = "On validation no trained model ranks images better than the base model does without training."
        return _Taught("no", "No.", (said,))
    found = results.difference(base, best, column.metric)
    if found is None or math.isnan(found.value):
        said = f"{column.heading} of {best.name} and of the base model cannot be compared."
        return _Taught("not shown", "Not shown.", (said,))
    before, after = (model.metric_or_nan(column.metric).value for model in (base, best))
    interval = bounds_text(column, Estimate(found.value, found.low, found.high, found.rows))
    figures = (
        f"{column.heading} on the same test images: {decimal(before, 3)} before training, {decimal(after, 3)} after,"
        f" difference {'+' if found.value > 0 else ''}{decimal(found.value, 3)} {interval}".rstrip()
        + "."
    )
    if found.change != "raised":
        no = found.change == "lowered"
        said = "Training lowered it." if no else "The interval of the difference holds 0, so no gain is shown."
        return _Taught("no" if no else "not shown", "No." if no else "Not shown.", (figures, said))
    if results.control is None or column.metric not in metrics_of(results.control):
        return _Taught("yes", "Yes, as far as a run without a control tells.", (figures,))
    if best is not final(results):
        said = f"The control was compared with {final(results).name}, not with this model."
        return _Taught("yes", "Yes, as far as a run without a control tells.", (figures, said))
    counts = outcome(estimates_of(results.control, column.metric))
    if counts == "counts":
        return _Taught("yes", "Yes.", (figures, "The gain is beyond the control, which learned shuffled scores."))
    if counts == "does not count":
        said = "The gain is not beyond the control, which learned shuffled scores, so it does not count."
        return _Taught("no", "No.", (figures, said))
    return _Taught("not shown", "Not shown.", (figures, "The control could not be compared."))


def _how_far_off(results: RunResults, best: ModelResults) -> Point:
    """The typical error on the own scale beside that of one fixed score, and that of the stated digit in bins."""
    test = on_split(best.predictions, "test")
    true, predicted = test["score"].to_numpy(), test[f"predicted_{results.reading}"].to_numpy()
    scores = results.images["score"].to_numpy()
    middle = float(np.median(on_split(results.images, "train")["score"].to_numpy()))
    bootstrap = results.recipe.evaluation
    gain = grouped_estimates(
        {"gain": lambda weights: mean(np.abs(true - predicted) - np.abs(true - middle), weights)},
        groups=np.array(test["group"].to_pylist(), dtype=np.str_),
        samples=bootstrap.bootstrap_samples,
        confidence=bootstrap.confidence,
        seed=results.recipe.seed,
    )["gain"]
    off, fixed = (float(mae(true, values, once(len(true)))[0]) for values in (predicted, np.full(len(true), middle)))
    reasons = [
        f"A predicted score is on your own scale; your scores run from {plain_number(float(scores.min()))} to"
        f" {plain_number(float(scores.max()))}.",
        f"Always giving your middle training score, {plain_number(middle)}, would be {plain_number(fixed)} off on your"
        " own scale" + ("." if change(gain) == "lowered" else ": it is not shown that the model is nearer than that."),
    ]
    if float(predicted.std()) < FLAT * float(true.std()):
        reasons.append("Its predicted scores hardly differ between images. Use them to sort images, not as scores.")
    bins_off, within = best.metric_or_nan("mae_stated").value, best.metric_or_nan("within_one_stated").value
    reasons.append(
        f"The score that it states before its explanation is a bin, 0 to 9, and not on your own scale. It is"
        f" {plain_number(bins_off)} bins off on average; {percent(round(within, 2))} of the test images get the right"
        " bin or one beside it."
    )
    return Point(
        question="How far off is its score?",
        answer=f"{plain_number(off)} on your own scale, on average.",
        reasons=tuple(reasons),
    )


def _which_is_best(results: RunResults, best: ModelResults) -> Point:
    last = final(results)
    value = decimal(best.metric_or_nan(CHOSEN_BY, "val").value, 3)
    count = on_split(best.predictions, "val").num_rows
    reasons = [
        f"It has the highest {SRCC_UNFITTED.heading} on the {count} validation images, {value}. Test images play no"
        " part in the choice. Predictions use this model."
    ]
    if best is not last:
        other = last.metric_or_nan(CHOSEN_BY, "val").value
        collapsed = last.metric_or_nan("parse_rate", "val").value < results.recipe.evaluation.min_parse_rate
        why = "has collapsed" if collapsed else f"has {decimal(other, 3)}"
        reasons.append(f"The final model, {last.name}, {why}; tables and figures of the report show all models.")
    name = f"{best.name}, the base model without training" if best is zero_shot(results) else best.name
    return Point(question="Which model is the best?", answer=f"{name}.", reasons=tuple(reasons))


def _next_steps(results: RunResults, best: ModelResults, answer: Answer, taught: Answer) -> list[str]:
    recipe, last = results.recipe, final(results)
    counts = {split: on_split(results.images, split).num_rows for split in ("train", "val", "test")}
    steps = []
    if recipe.model.id == "bundled" and recipe.model.from_run is None:
        steps.append(
            "Take a real model. The bundled one is for trying WhyScore out; recipes/self_improve/own.yaml shows which"
            " lines to change."
        )
    limit = recipe.evaluation.min_parse_rate
    if last.metric_or_nan("parse_rate", "val").value < limit:
        steps.append(
            f"{last.name} lost the form of its answers. Lower training.learning_rate, or raise training.sft_weight,"
            " which keeps the form."
        )
    elif best is zero_shot(results) and last is not best:
        steps.append(
            "Try other settings: `whyscore grid-search` compares learning rates, beta and LoRA ranks on validation."
        )
    elif best is not last:
        steps.append(f"Later iterations did not rank validation images better: iterations: {best.iteration} is enough.")
    if answer != "yes" or taught == "not shown":
        steps.append(f"Give more training images with scores; this run had {counts['train']:,}.")
    srcc = best.metric_or_nan(used_srcc(results).metric)
    if not srcc.high - srcc.low <= WIDE:
        wide = f"the interval of SRCC, {bounds_text(used_srcc(results), srcc)}, is wide"
        known = math.isfinite(srcc.high - srcc.low)
        steps.append(
            f"Give more test images: with {counts['test']:,}, "
            + (f"{wide}. Four times as many halve it." if known else "there is no interval of SRCC.")
        )
    if counts["val"] < FEW_VALIDATION_IMAGES:
        few = counts["val"] < MONOTONE_FROM
        unused = f" With fewer than {MONOTONE_FROM}, predictions are not fitted to your scale." if few else ""
        steps.append(f"Give {FEW_VALIDATION_IMAGES} or more validation images; this run had {counts['val']:,}.{unused}")
    steps += narrow_intervals(results)
    if results.control is None and taught == "yes":
        steps.append(
            "Run `whyscore control` with this recipe: a gain counts only beyond that on shuffled training scores."
        )
    if answer == "yes":
        steps.append("Look at the images in the report, then score your own: `whyscore predict`.")
    return steps


def _warnings(results: RunResults, best: ModelResults, answer: Answer, taught: _Taught) -> list[str]:
    said = []
    column = used_srcc(results)
    figure = f"{column.heading} on test {estimate_text(column, best.metric_or_nan(column.metric))}"
    if answer == "no":
        said.append(f"{best.name} cannot tell good images from bad ones ({figure}): do not rely on its scores")
    elif answer == "not shown":
        said.append(f"it is not shown that {best.name} can tell good images from bad ones ({figure})")
    if taught.answer == "no":
        said.append(f"training did not make the model better: {' '.join(taught.reasons)}")
    return said


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -1.0
