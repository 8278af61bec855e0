"""Predictions for images without scores, on the data set's own scale."""

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_lib.methods.self_improve.recipe import SCORES
from pipeline_lib.methods.self_improve.tables import MODEL_ANSWERS, NEW_PREDICTIONS
from pipeline_lib.methods.self_improve.uncertainty import LEVELS, calibrated_folds, calibration_of, used_interval
from pipeline_lib.metrics.conformal import CalibratedFold, intervals_around
from pipeline_lib.metrics.readings import ReferenceValues

EVALUATED = ("reference_values", "predictions")
"""The tables of a model's evaluation that `scale_of` takes."""


def to_ask(images: pa.Table) -> pa.Table:
    """The readable images of `NEW_IMAGES`, each content once, for `answer_images`."""
    first: dict[str, int] = {}
    for at, (sha256, problem) in enumerate(
        zip(images["image_sha256"].to_pylist(), images["problem"].to_pylist(), strict=True)
    ):
        if problem is None:
            first.setdefault(sha256, at)
    good = images.take(pa.array(first.values(), pa.int64()))
    table = good.select(["path", "image_sha256", "width_px", "height_px"]).rename_columns({"path": "image"})
    for name in ("split", "score", "bin"):  # what is not known of them
        table = table.append_column(name, pa.nulls(table.num_rows, MODEL_ANSWERS.schema.field(name).type))
    return table


class Scale(NamedTuple):
    """What turns a model's answers into scores and intervals."""

    used: ReferenceValues
    calibrated: tuple[CalibratedFold, ...]


def scale_of(reference_values: pa.Table, predictions: pa.Table, seed: int) -> Scale:
    """The scale of a model from the tables of its evaluation, and the seed of that run.

    `reference_values` are `REFERENCE_VALUES`; the validation images of `predictions` (`PREDICTIONS`) calibrate the
    intervals.
    """
    calibration = calibration_of(predictions, reference_values["unfitted"].to_numpy())
    return Scale(used_values(reference_values), calibrated_folds(calibration, seed))


def used_values(reference_values: pa.Table) -> ReferenceValues:
    """The reference values that predictions use: the monotone ones, or the unfitted ones where there are none."""
    reading: Literal["unfitted", "monotone"] = "unfitted" if reference_values["monotone"].null_count else "monotone"
    return ReferenceValues(reference_values[reading].to_numpy(), reading)


def new_predictions(images: pa.Table, answers: pa.Table, scale: Scale) -> pa.Table:
    """A row of `NEW_PREDICTIONS` for every image, in their order, those with a problem too."""
    used, found = scale.used, answers.to_pylist()
    p = np.array([row["score_distribution"] for row in found], dtype=np.float64).reshape(-1, len(SCORES))
    lows, highs = used_interval(intervals_around(scale.calibrated, p, LEVELS))
    for row, predicted, low, high in zip(found, p @ used.values, lows, highs, strict=True):
        row |= {"predicted": float(predicted), "reading": used.reading}
        if np.isfinite(low) and np.isfinite(high):
            row |= {"interval_low": float(low), "interval_high": float(high)}
    of = {row["image_sha256"]: row for row in found}
    rows = []
    for image in images.to_pylist():
        row = {name: image[name] for name in ("image", "image_sha256", "problem")}
        if image["problem"] is None:
            row = of[image["image_sha256"]] | row
        rows.append({name: row.get(name) for name in NEW_PREDICTIONS.schema.names})
    return pa.Table.from_pylist(rows, schema=NEW_PREDICTIONS.schema)
