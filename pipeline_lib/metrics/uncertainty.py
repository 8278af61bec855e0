"""Uncertainty of predicted scores: conformal intervals, their measured coverage, and CRPS of a distribution."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.conformal import CalibratedFold, Intervals, intervals_around, scale
from pipeline_lib.metrics.intervals import group_rows, wilson_estimate
from pipeline_lib.metrics.scores import Estimate

Array = NDArray[np.float64]
Fit = Callable[[Array, Array], Array]
"""Reference values, shape (10,), from distributions, shape (n, 10), and scores, shape (n,)."""


class Reliability(NamedTuple):
    """A nominal level beside what was measured on images that the intervals did not see."""

    level: float
    coverage: Estimate  # share of images whose true score is inside; Wilson interval
    mean_width: float  # in the unit of the scores


def conformal_intervals(
    fit: Fit,
    distributions: Array,
    true: Array,
    new: Array,
    *,
    groups: NDArray[np.generic],
    levels: Sequence[float],
    folds: int,
    seed: int,
) -> Intervals:
    """Prediction intervals for new images, calibrated by cross-fitting on validation images (`calibrate`).

    An interval for a new image, `new` of shape (m, 10), joins all folds: its ends are order statistics of
    prediction -/+ error * spread over the n validation images (CV+ of Barber et al., Predictive inference with the
    jackknife+, 2021, with normalised errors). If validation and new images are exchangeable, coverage is about the
    level. What is proved is at least 2 * level - 1, less a term that vanishes with n. Images of one group are not
    exchangeable with images of others: measure the coverage (`reliability`).

    Raises `DataError` as `calibrate` does, and for levels outside 0 to 1.
    """
    if not all(0 < level < 1 for level in levels):
        raise DataError(f"levels must be between 0 and 1, found {list(levels)}")
    return intervals_around(calibrate(fit, distributions, true, groups=groups, folds=folds, seed=seed), new, levels)


def calibrate(
    fit: Fit, distributions: Array, true: Array, *, groups: NDArray[np.generic], folds: int, seed: int
) -> tuple[CalibratedFold, ...]:
    """Cross-fit reference values on validation images, so that `intervals_around` can give intervals for new ones.

    The validation images, `distributions` of shape (n, 10) and `true` of shape (n,), are divided into `folds`, whole
    `groups` each. `fit` sees all folds but one; the errors on that fold, divided by the spread of the image's
    distribution, calibrate it. So fitting and calibrating never share an image or a group.

    Raises `DataError` for unequal lengths, and fewer groups than folds.
    """
    n, distinct = len(true), len(group_rows(groups))
    if not len(distributions) == n == len(groups) or not 2 <= folds <= distinct:
        raise DataError(
            "cross-fitting needs a score and a group for each image, and between 2 folds and one for each group; found"
            f" {len(distributions)} images, {n} scores, {len(groups)} group names ({distinct} distinct), {folds} folds"
        )
    calibrated = []
    for fitted, held in group_folds(groups, folds, seed):
        values = fit(distributions[fitted], true[fitted])
        errors = np.abs(true[held] - distributions[held] @ values) / scale(distributions[held], values)
        calibrated.append(CalibratedFold(values, errors))
    return tuple(calibrated)


def group_folds(
    groups: NDArray[np.generic], folds: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to fit on and rows held out, for each fold; a group is never on both sides, and each is held out once."""
    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(groups, groups=groups))


def reliability(true: Array, intervals: Intervals, levels: Sequence[float], *, confidence: float) -> list[Reliability]:
    """Measured coverage and width for each level, on images that neither fitted nor calibrated the intervals.

    `true` has shape (m,). A score at an end is inside.
    """
    inside = (intervals.low <= true) & (true <= intervals.high)
    widths = (intervals.high - intervals.low).mean(axis=1)
    return [
        Reliability(level, wilson_estimate(row, confidence=confidence), float(width))
        for level, row, width in zip(levels, inside, widths, strict=True)
    ]


def crps(distributions: Array, reference_values: Array, true: Array) -> Array:
    """Continuous ranked probability score of each distribution over reference values, shape (n,); 0 is best.

    E|X - y| - E|X - X'| / 2 with X, X' drawn from the distribution (Gneiting and Raftery, 2007, eq. 21), in the unit of
    the scores. It is the absolute error for a distribution with one certain value. `distributions` has shape (n, 10),
    rows sum to 1; `reference_values` (10,), in any order; `true` (n,).
    """
    error = (distributions * np.abs(reference_values - true[:, None])).sum(axis=1)
    apart = np.abs(reference_values[:, None] - reference_values)
    return np.asarray(error - ((distributions @ apart) * distributions).sum(axis=1) / 2)
