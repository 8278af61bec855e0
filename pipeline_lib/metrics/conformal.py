"""Prediction intervals for new images from a finished calibration. It needs NumPy alone: exported models copy it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class CalibratedFold(NamedTuple):
    """One fold of a cross-fit: reference values of the other folds' images, and how far they miss this fold's scores.

    An error is |score - expectation| over the scale of the image's own distribution (`scale`).
    """

    values: Array  # (digits,) on the data set's own scale
    errors: Array  # (images of the fold,)


class Intervals(NamedTuple):
    """Prediction intervals in the unit of the scores; an end is infinite where there are too few images."""

    low: Array  # (levels, images)
    high: Array


def intervals_around(calibrated: Sequence[CalibratedFold], new: Array, levels: Sequence[float]) -> Intervals:
    """Intervals of new images, digit distributions `new` of shape (m, digits), at each level.

    Ends are order statistics of expectation -/+ error * scale over all n calibration images. Without any, or with too
    few for a level, ends are infinite.
    """
    n = sum(len(fold.errors) for fold in calibrated)
    halves = [fold.errors[:, None] * scale(new, fold.values) for fold in calibrated]
    centres = [new @ fold.values for fold in calibrated]
    none = np.empty((0, len(new)))
    lows = np.sort(np.concatenate([none, *(c - half for c, half in zip(centres, halves, strict=True))]), axis=0)
    highs = np.sort(np.concatenate([none, *(c + half for c, half in zip(centres, halves, strict=True))]), axis=0)
    ends = Intervals(np.full((len(levels), len(new)), -np.inf), np.full((len(levels), len(new)), np.inf))
    for at, level in enumerate(levels):
        rank = int(np.ceil(level * (n + 1) - 1e-9))  # one of n + 1 places is the new image's own
        if rank <= n:
            ends.low[at], ends.high[at] = lows[n - rank], highs[rank - 1]
    return ends


def scale(distributions: Array, values: Array) -> Array:
    """The spread of each distribution, with that of a score inside its bin; 1 when all reference values are equal.

    A certain digit says the bin and not the score, so no scale is 0: a bin is a tenth of the range of the reference
    values, and a uniform score in it has the standard deviation of its width by the root of 12.
    """
    within_bin = np.ptp(values) / len(values) / np.sqrt(12)
    if within_bin == 0:
        return np.ones(len(distributions))
    deviations = values - (distributions @ values)[:, None]
    return np.asarray(np.hypot(np.sqrt((distributions * deviations**2).sum(axis=1)), within_bin))
