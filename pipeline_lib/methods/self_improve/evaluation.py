"""Evaluate a model: its score distribution, its greedy answer, and its figures (section 4.3)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from pipeline_lib.config.base import Split
from pipeline_lib.methods.self_improve.answer import parse_answer
from pipeline_lib.methods.self_improve.recipe import SCORES, Evaluation
from pipeline_lib.methods.self_improve.score_tokens import ScoreTokens
from pipeline_lib.methods.self_improve.tables import MODEL_ANSWERS
from pipeline_lib.metrics.scores import Estimate, fit_reference_values, mean_estimate, score_metrics
from pipeline_lib.progress import Progress
from pipeline_lib.vlm.batches import ask_in_batches
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate import Greedy, Question, generate_answers
from pipeline_lib.vlm.load import Vlm


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


def evaluate_answers(
    answers: pa.Table, splits: Sequence[Split], bins: pa.Table, config: Evaluation, seed: int
) -> Evaluated:
    """Predicted scores and metrics from a model's answers to the images of some splits, validation among them.

    Two predictions an image, both sum_i s_i p_i on the data set's own scale: *unfitted* with s_i the mean training
    score of bin i, and *fitted* with s_i by least squares on the validation answers (section 4.3). Fitted metrics on
    validation describe the images of the fit; those on test do not.
    """
    p = np.array(answers["score_distribution"].to_pylist(), dtype=np.float64).reshape(-1, len(SCORES))
    true = answers["score"].to_numpy()
    split = np.array(answers["split"].to_pylist())
    val = split == "val"
    references = {
        "unfitted": bins["mean_score"].to_numpy(),
        "fitted": fit_reference_values(p[val], true[val]),
    }
    predicted = {name: p @ values for name, values in references.items()}
    rows: list[dict[str, object]] = []
    for part in splits:
        of = split == part
        for name, values in predicted.items():
            found = score_metrics(
                true[of], values[of], samples=config.bootstrap_samples, confidence=config.confidence, seed=seed
            )
            rows += [metric_row(part, f"{metric}_{name}", estimate) for metric, estimate in found.items()]
        parsed = answers["parsed"].to_numpy(zero_copy_only=False)[of].astype(np.float64)
        rate = mean_estimate(parsed, samples=config.bootstrap_samples, confidence=config.confidence, seed=seed)
        rows.append(metric_row(part, "parse_rate", rate))
    predictions = answers
    for name, values in predicted.items():
        predictions = predictions.append_column(f"predicted_{name}", pa.array(values))
    reference_values = pa.table({"bin": list(SCORES), **references})
    return Evaluated(predictions, reference_values, pa.Table.from_pylist(rows))


def metric_row(split: str, metric: str, estimate: Estimate) -> dict[str, object]:
    """One row of `METRICS`."""
    return {"split": split, "metric": metric, **estimate._asdict()}


def is_collapsed(metrics: pa.Table, min_parse_rate: float) -> bool:
    """Whether the parse rate of a model (on test, if it was evaluated there) is too low: it has collapsed."""
    rates = metrics.filter(pc.equal(metrics["metric"], "parse_rate")).to_pylist()
    rate = next((row for row in rates if row["split"] == "test"), rates[0])
    return bool(rate["value"] < min_parse_rate)
