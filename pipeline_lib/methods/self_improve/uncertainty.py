"""Prediction intervals of a model's scores, calibrated on the validation images (called model uncertainty)."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_lib.methods.self_improve.recipe import SCORES
from pipeline_lib.metrics.conformal import CalibratedFold, Intervals, intervals_around
from pipeline_lib.metrics.intervals import group_rows
from pipeline_lib.metrics.readings import MONOTONE_FROM, fit_monotone_values
from pipeline_lib.metrics.uncertainty import calibrate

Array = NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Levels of the reliability plot."""

USED_LEVEL = 0.9
"""Level of the interval that stands beside a prediction."""

_FOLDS = 5


class Calibration(NamedTuple):
    """Validation images, which calibrate intervals, and the bin means."""

    distributions: Array  # (n, 10)
    true: Array  # (n,)
    groups: NDArray[np.str_]  # (n,)
    bin_means: Array  # (10,)


def prediction_intervals(calibration: Calibration, new: Array, seed: int) -> Intervals:
    """Intervals of the scores of new images, digit distributions of shape (m, 10), at each of `LEVELS`."""
    return intervals_around(calibrated_folds(calibration, seed), new, LEVELS)


def calibrated_folds(calibration: Calibration, seed: int) -> tuple[CalibratedFold, ...]:
    """What intervals of new images need of the validation images, whose scores and names are not in it.

    Intervals are around the reading that predictions use: monotone, or unfitted with fewer than `MONOTONE_FROM`
    validation images. Fitting and calibrating share no group (`calibrate`). There are no folds with fewer than two
    groups: all ends are infinite then.
    """
    n, means = len(calibration.true), calibration.bin_means
    folds = min(_FOLDS, len(group_rows(calibration.groups)))
    if folds < 2:
        return ()

    def fit(distributions: Array, true: Array) -> Array:
        return fit_monotone_values(distributions, true, means) if n >= MONOTONE_FROM else means

    return calibrate(
        fit, calibration.distributions, calibration.true, groups=calibration.groups, folds=folds, seed=seed
    )


def used_interval(intervals: Intervals) -> tuple[Array, Array]:
    """Lower and upper ends at `USED_LEVEL`, shape (m,)."""
    at = LEVELS.index(USED_LEVEL)
    return intervals.low[at], intervals.high[at]


def calibration_of(predictions: pa.Table, bin_means: Array) -> Calibration:
    """The validation rows of `PREDICTIONS`."""
    val = predictions.filter(pc.equal(predictions["split"], "val"))
    distributions = np.array(val["score_distribution"].to_pylist(), dtype=np.float64).reshape(-1, len(SCORES))
    return Calibration(distributions, val["score"].to_numpy(), np.array(val["group"].to_pylist()), bin_means)
