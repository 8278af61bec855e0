"""Evaluate a model on another labelled data set; nothing is fitted on it (`evaluation.also`)."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.evaluation import metric_row
from pipeline_lib.methods.self_improve.predictions import used_values
from pipeline_lib.methods.self_improve.recipe import SCORES
from pipeline_lib.metrics.figures import krcc, plcc, srcc
from pipeline_lib.metrics.intervals import grouped_estimates, rate_estimate
from pipeline_lib.metrics.readings import expected_bins, stated_digits
from pipeline_lib.metrics.scores import Estimate

Array = NDArray[np.float64]


class OtherEvaluated(NamedTuple):
    """Tables in the schemas `OTHER_PREDICTIONS` and `METRICS`."""

    predictions: pa.Table
    metrics: pa.Table


def to_ask(images: pa.Table) -> pa.Table:
    """The images of another data set for `answer_images`: all of them as test images, without a bin of this run."""
    columns = ["image", "image_sha256", "score", "width_px", "height_px", "group"]
    table = images.select(columns).append_column("split", pa.array(["test"] * images.num_rows))
    return table.append_column("bin", pa.nulls(images.num_rows, pa.int8()))


def evaluate_other(
    answers: pa.Table, images: pa.Table, reference_values: pa.Table, config: Bootstrap, seed: int
) -> OtherEvaluated:
    """Predictions and figures of a model on all images of another data set.

    `reference_values` are those of the model's own evaluation, so predictions are on the scale of the data set that it
    was trained on. The other data set may have another scale: the figures are correlations alone. `images` are those of
    the data set with their groups. Raises `KeyError` when they are not those of the answers.
    """
    p = np.array(answers["score_distribution"].to_pylist(), dtype=np.float64).reshape(-1, len(SCORES))
    group_of = dict(zip(images["image"].to_pylist(), images["group"].to_pylist(), strict=True))
    groups = np.array([group_of[image] for image in answers["image"].to_pylist()], dtype=np.str_)
    true, used = answers["score"].to_numpy(), used_values(reference_values)
    readings = {
        "stated": stated_digits(p).astype(np.float64),
        "unfitted": p @ reference_values["unfitted"].to_numpy(),
        "fitted": p @ reference_values["fitted"].to_numpy(),
        used.reading: p @ used.values,
    }
    settings = {"samples": config.bootstrap_samples, "confidence": config.confidence, "seed": seed}
    figures = {
        f"{figure.__name__}_{name}": partial(figure, true, predicted)
        for figure in (srcc, krcc, plcc)
        for name, predicted in readings.items()
    }
    found = grouped_estimates(figures, groups=groups, **settings)  # type: ignore[arg-type]
    parsed = answers["parsed"].to_numpy(zero_copy_only=False)
    found["parse_rate"] = rate_estimate(parsed, groups=groups, **settings)  # type: ignore[arg-type]
    spread = expected_bins(p).spread_bins
    found["spread_bins"] = Estimate(spread, float("nan"), float("nan"), len(p))
    predictions = answers.drop_columns(["split", "bin"]).append_column("group", pa.array(groups.tolist(), pa.string()))
    predictions = predictions.append_column("predicted", pa.array(readings[used.reading]))
    predictions = predictions.append_column("reading", pa.array([used.reading] * len(p)))
    rows = [metric_row("test", name, estimate) for name, estimate in found.items()]
    return OtherEvaluated(predictions, pa.Table.from_pylist(rows))
