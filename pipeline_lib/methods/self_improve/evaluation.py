"""Evaluate a model: its score distribution, its greedy answer, and its figures (section 4.3)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL.Image import Image

from pipeline_lib.config.base import Split
from pipeline_lib.methods.self_improve.answer import parse_answer
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import SCORES, Evaluation
from pipeline_lib.methods.self_improve.score_tokens import ScoreTokens, resolve_score_tokens
from pipeline_lib.methods.self_improve.tables import MODEL_ANSWERS
from pipeline_lib.methods.self_improve.uncertainty import LEVELS, Calibration, prediction_intervals, used_interval
from pipeline_lib.metrics.chance import text_variety
from pipeline_lib.metrics.conformal import Intervals
from pipeline_lib.metrics.figures import krcc, mae, mean, once, plcc, rmse, srcc
from pipeline_lib.metrics.intervals import grouped_estimates, rate_estimate
from pipeline_lib.metrics.readings import expected_bins, stated_digits, used_reference_values
from pipeline_lib.metrics.score_agreement import (
    Logistic,
    apply_logistic,
    earth_movers_distance,
    fit_logistic,
    tie_share,
)
from pipeline_lib.metrics.scores import Estimate, fit_reference_values
from pipeline_lib.metrics.uncertainty import crps, reliability
from pipeline_lib.progress import Progress
from pipeline_lib.tables.images import VOTES_COLUMN
from pipeline_lib.vlm.batches import ask_in_batches
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.generate import Greedy, Question, generate_answers
from pipeline_lib.vlm.load import Vlm

Array = NDArray[np.float64]
Figures = dict[str, Callable[[Array], Array]]


class Evaluated(NamedTuple):
    """Tables in the schemas `PREDICTIONS`, `REFERENCE_VALUES` and `METRICS`."""

    predictions: pa.Table
    reference_values: pa.Table
    metrics: pa.Table


def answer_images(
    vlm: Vlm,
    chat: Chat,
    scores: ScoreTokens,
    images: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """Ask the model about every image; one row each in `MODEL_ANSWERS`. An answer that does not parse keeps its text.

    Score distribution and answer come from one prefill of the image.
    """

    def answer(batch: list[dict[str, Any]], images: list[list[Image]]) -> list[dict[str, Any]]:
        questions = [Question(chat, shown) for shown in images]
        found = generate_answers(vlm, questions, Greedy(max_new_tokens=max_new_tokens), scores)
        rows = []
        for row, readout, (result,) in zip(batch, found.readouts, found.answers, strict=True):
            parsed = parse_answer(result.text)
            rows.append(
                row
                | {
                    "score_distribution": readout.distribution,
                    "digit_mass": readout.mass,
                    "text": result.text,
                    "text_tokens": result.tokens,
                    "parsed": parsed is not None,
                    "stated_score": parsed.score if parsed else None,
                    "explanation": parsed.explanation if parsed else None,
                }
            )
        return rows

    columns = ["image", "image_sha256", "split", "score", "bin", "width_px", "height_px"]
    records = images.select(columns).to_pylist()
    rows = ask_in_batches(vlm.model, records, open_image, batch_size, answer, progress)
    return pa.Table.from_pylist(rows, schema=MODEL_ANSWERS.schema)


def ask_prompt(
    vlm: Vlm,
    prompt: Prompt,
    images: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """`answer_images` with a prompt in the model's own chat template: the one way to a model's scores."""
    chat = render_chat(vlm.processor, prompt.text)
    return answer_images(
        vlm,
        chat,
        resolve_score_tokens(vlm.processor.tokenizer, chat),
        images,
        open_image,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )


def evaluate_answers(
    answers: pa.Table, images: pa.Table, splits: Sequence[Split], bins: pa.Table, config: Evaluation, seed: int
) -> Evaluated:
    """Predicted scores and metrics from a model's answers to the images of some splits, validation among them.

    Four readings of an answer (`pipeline_lib.metrics.readings`): *stated*, the most probable digit, and three
    expectations sum_i s_i p_i on the data set's own scale. *Unfitted*: s_i is the mean training score of bin i.
    *Fitted*: least squares on the validation answers, as in section 4.3. *Monotone*: fitted on validation too, but in
    order and inside the range of the scores; there is none with fewer than `MONOTONE_FROM` validation images. Figures
    of the last two on validation describe the images of the fit; those on test do not.

    `images` are `IMAGES`, with the groups that intervals resample. Where they have the votes of the raters (columns
    `votes_<score>`, on the scale of the scores), `emd` is the mean distance between them and the model's distribution.
    Prediction intervals are for test images alone, because validation calibrates them.
    """
    p = np.array(answers["score_distribution"].to_pylist(), dtype=np.float64).reshape(-1, len(SCORES))
    group_of = dict(zip(images["image"].to_pylist(), images["group"].to_pylist(), strict=True))
    answers = answers.append_column("group", pa.array([group_of[image] for image in answers["image"].to_pylist()]))
    true, true_bins = answers["score"].to_numpy(), answers["bin"].to_numpy()
    groups, split = np.array(answers["group"].to_pylist()), np.array(answers["split"].to_pylist())
    val = split == "val"
    means = bins["mean_score"].to_numpy()
    used = used_reference_values(p[val], true[val], means)
    references = {"unfitted": means, "fitted": fit_reference_values(p[val], true[val])}
    if used.reading == "monotone":
        references["monotone"] = used.values
    predicted = {name: p @ values for name, values in references.items()}
    intervals = prediction_intervals(Calibration(p[val], true[val], groups[val], means), p, seed)
    logistics = {name: fit_logistic(true[val], values[val]) for name, values in predicted.items()}
    rows: list[dict[str, object]] = []
    for part in splits:
        of = split == part
        measure = partial(
            grouped_estimates,
            groups=groups[of],
            samples=config.bootstrap_samples,
            confidence=config.confidence,
            seed=seed,
        )
        figures = _stated_figures(true[of], true_bins[of], stated_digits(p[of]))
        for name, values in predicted.items():
            figures |= _figures(name, true[of], values[of], logistics[name])
        figures["crps"] = partial(mean, crps(p[of], used.values, true[of]))
        if (distances := _distances_of_votes(answers.filter(pa.array(of)), images, p[of], used.values)) is not None:
            figures["emd"] = partial(mean, distances)
        rows += [metric_row(part, name, estimate) for name, estimate in measure(figures).items()]
        variety = text_variety(answers.filter(pa.array(of))["explanation"].drop_null().to_pylist())
        alone = {"distinct_texts": float(variety.distinct), "mean_words": variety.mean_words}
        alone |= {"spread_bins": expected_bins(p[of]).spread_bins, "ties_stated": tie_share(stated_digits(p[of]))}
        alone |= {f"plcc_logistic_same_{name}": _logistic_plcc(true[of], predicted[name][of]) for name in predicted}
        rows += [metric_row(part, name, _alone(value, int(of.sum()))) for name, value in alone.items()]
        if part == "test":
            rows += _reliability_rows(true[of], Intervals(intervals.low[:, of], intervals.high[:, of]), config)
        parsed = answers["parsed"].to_numpy(zero_copy_only=False)[of]
        rates = {"parse_rate": parsed} | _bin_rates(true_bins[of], stated_digits(p[of]))
        for name, hits in rates.items():
            rows.append(metric_row(part, name, rate_estimate(hits, **measure.keywords)))
    predictions = answers
    for name in ("unfitted", "fitted", "monotone"):
        values = pa.array(predicted[name]) if name in predicted else pa.nulls(len(p), pa.float64())
        predictions = predictions.append_column(f"predicted_{name}", values)
    for name, ends in zip(("interval_low", "interval_high"), used_interval(intervals), strict=True):
        ends = np.where(np.isfinite(ends) & (split == "test"), ends, np.nan)
        predictions = predictions.append_column(name, pa.array(ends, from_pandas=True))
    monotone = pa.array(references["monotone"]) if "monotone" in references else pa.nulls(len(SCORES), pa.float64())
    reference_values = pa.table(
        {"bin": list(SCORES), "unfitted": means, "fitted": references["fitted"], "monotone": monotone}
    )
    return Evaluated(predictions, reference_values, pa.Table.from_pylist(rows))


def _stated_figures(true: Array, true_bins: Array, stated: NDArray[np.int64]) -> Figures:
    digits, wanted = stated.astype(np.float64), true_bins.astype(np.float64)
    return {
        "srcc_stated": partial(srcc, true, digits),
        "plcc_stated": partial(plcc, true, digits),
        "krcc_stated": partial(krcc, true, digits),
        "mae_stated": partial(mae, wanted, digits),  # in bins
    }


def _figures(reading: str, true: Array, predicted: Array, logistic: Logistic) -> Figures:
    found = {figure.__name__: partial(figure, true, predicted) for figure in (plcc, srcc, krcc, rmse, mae)}
    found["plcc_logistic"] = partial(plcc, true, apply_logistic(logistic, predicted))
    return {f"{name}_{reading}": figure for name, figure in found.items()}


def _logistic_plcc(true: Array, predicted: Array) -> float:
    """PLCC after a logistic that was fitted on the same images, as the field reports it; it is too good."""
    mapped = apply_logistic(fit_logistic(true, predicted), predicted)
    return float(plcc(true, mapped, once(len(true)))[0])


def _distances_of_votes(answers: pa.Table, images: pa.Table, p: Array, values: Array) -> Array | None:
    """Distance of each distribution from its image's votes; None without columns `votes_<score>`."""
    columns = [name for name in images.column_names if VOTES_COLUMN.fullmatch(name)]
    if not columns:
        return None
    rows = {row["image"]: row for row in images.select(["image", *columns]).to_pylist()}
    votes = np.array([[rows[image][name] for name in columns] for image in answers["image"].to_pylist()], np.float64)
    return earth_movers_distance(p, values, votes, np.array([float(name.removeprefix("votes_")) for name in columns]))


def _bin_rates(true_bins: NDArray[np.int64], stated: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    apart = np.abs(true_bins.astype(np.int64) - stated)
    return {"exact_stated": apart == 0, "within_one_stated": apart <= 1}


def _reliability_rows(true: Array, intervals: Intervals, config: Evaluation) -> list[dict[str, object]]:
    rows = []
    for found in reliability(true, intervals, LEVELS, confidence=config.confidence):
        name = f"{100 * found.level:g}"
        rows.append(metric_row("test", f"coverage_{name}", found.coverage))
        rows.append(metric_row("test", f"width_{name}", _alone(found.mean_width, len(true))))
    return rows


def _alone(value: float, rows: int) -> Estimate:
    """A figure without an interval."""
    return Estimate(value, float("nan"), float("nan"), rows)


def metric_row(split: str, metric: str, estimate: Estimate) -> dict[str, object]:
    """One row of `METRICS`."""
    return {"split": split, "metric": metric, **estimate._asdict()}


def is_collapsed(metrics: pa.Table, min_parse_rate: float) -> bool:
    """Whether the parse rate of a model (on test, if it was evaluated there) is too low: it has collapsed."""
    rates = metrics.filter(pc.equal(metrics["metric"], "parse_rate")).to_pylist()
    rate = next((row for row in rates if row["split"] == "test"), rates[0])
    return bool(rate["value"] < min_parse_rate)
