"""Four readings of a score from a distribution over the ten digits: stated, unfitted, fitted and monotone.

The *stated* digit is the most probable one. The other three are expectations sum_i s_i p_i on the data set's own scale,
with other reference values s_i: the mean training score of each bin (*unfitted*), least squares on validation images
(*fitted*, section 4.3, `scores.fit_reference_values`), or bin means moved and stretched to the validation images, so
that s_0 <= .. <= s_9 (*monotone*, docs/decisions/0017-monotone-reading.md).
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pipeline_lib.errors import DataError

Array = NDArray[np.float64]

DIGITS = 10

MONOTONE_FROM = 50
"""Validation images from which on the monotone reading is used; with fewer the unfitted one (decision 17)."""


class ExpectedBins(NamedTuple):
    """Expectations of the digit in bins, and how much they vary. A rank correlation does not see this spread."""

    bins: Array  # (n,), 0 to 9
    spread_bins: float  # standard deviation over images; near 0: the model reads every image alike; NaN for no images


class ReferenceValues(NamedTuple):
    """Ten reference values on the data set's own scale, and the reading that they are of."""

    values: Array  # (10,)
    reading: Literal["unfitted", "monotone"]


def stated_digits(distributions: Array) -> NDArray[np.int64]:
    """The most probable digit of each row, shape (n,): the one that greedy decoding states; the lowest of equal ones.

    `distributions` has shape (n, 10). Raises `DataError` for another shape and for values that are not finite.
    """
    return np.asarray(_checked(distributions).argmax(axis=1))


def expected_bins(distributions: Array) -> ExpectedBins:
    """The mean digit of each row in bins, sum_i i p_i, and its standard deviation over images.

    `distributions` has shape (n, 10), rows sum to 1. Raises `DataError` as `stated_digits` does.
    """
    bins = _checked(distributions) @ np.arange(DIGITS)
    return ExpectedBins(bins, float(bins.std()) if len(bins) else float("nan"))


def distribution_spread(distributions: Array, reference_values: Array) -> Array:
    """Standard deviation of the score within each row, shape (n,), in the unit of `reference_values`, shape (10,).

    `distributions` has shape (n, 10), rows sum to 1. Raises `DataError` as `stated_digits` does.
    """
    p = _checked(distributions)
    deviations = reference_values - (p @ reference_values)[:, None]
    return np.asarray(np.sqrt((p * deviations**2).sum(axis=1)))


def fit_monotone_values(distributions: Array, true: Array, bin_means: Array, *, strength: float = 1.0) -> Array:
    """Reference values a + b * bin_means_i with b >= 0, inside the range of the validation scores; shape (10,).

    a and b minimise sum over images of (score - sum_i s_i p_i)^2 + `strength` * sum_i (s_i - bin_means_i)^2. So
    `strength` counts in images: each bin mean weighs as much as that many images that surely are in the bin. Values
    outside the range of `true` then become its ends. All ten values are equal if the expectation does not rise with the
    score (b = 0); correlations are not defined then.

    `distributions` has shape (n, 10), rows sum to 1; `true` has shape (n,), `bin_means` (10,), non-decreasing. Raises
    `DataError` without images, and for other shapes, falling bin means and values that are not finite.
    """
    p = _checked(distributions)
    if len(p) == 0 or true.shape != (len(p),) or bin_means.shape != (DIGITS,):
        raise DataError(
            "monotone reference values need at least one image, a score for each image and ten bin means;"
            f" found distributions {p.shape}, scores {true.shape}, bin means {bin_means.shape}"
        )
    if not np.isfinite(true).all() or not np.isfinite(bin_means).all() or (np.diff(bin_means) < 0).any():
        raise DataError(
            "monotone reference values need finite scores, and finite bin means of which none is below the one before;"
            f" found bin means {bin_means.tolist()} and {int((~np.isfinite(true)).sum())} scores that are not finite"
        )
    shapes = np.stack([np.ones(DIGITS), bin_means - bin_means.mean()], axis=1)
    rows = np.concatenate([p @ shapes, np.sqrt(strength) * shapes])
    targets = np.concatenate([true, np.sqrt(strength) * bin_means])
    found = optimize.lsq_linear(rows, targets, bounds=([-np.inf, 0.0], [np.inf, np.inf]))
    return np.asarray(np.clip(shapes @ found.x, true.min(), true.max()))


def used_reference_values(distributions: Array, true: Array, bin_means: Array) -> ReferenceValues:
    """The reference values to predict with: monotone from `MONOTONE_FROM` validation images on, else unfitted.

    Arguments and errors are those of `fit_monotone_values`, but for no images, which give the unfitted values.
    """
    if len(distributions) < MONOTONE_FROM:
        return ReferenceValues(bin_means, "unfitted")
    return ReferenceValues(fit_monotone_values(distributions, true, bin_means), "monotone")


def _checked(distributions: Array) -> Array:
    if distributions.ndim != 2 or distributions.shape[1] != DIGITS or not np.isfinite(distributions).all():
        raise DataError(f"expected finite digit distributions of shape (n, {DIGITS}), found {distributions.shape}")
    return distributions
