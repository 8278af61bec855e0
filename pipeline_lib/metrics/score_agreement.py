"""Agreement of predicted and true scores beside correlations and errors: bins, ties, logistic, distance of votes."""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from pipeline_lib.errors import DataError

Array = NDArray[np.float64]


class BinRates(NamedTuple):
    """Shares of images whose stated bin is the true one, and at most one bin away; NaN for no images."""

    exact: float
    within_one: float


class Logistic(NamedTuple):
    """A logistic from predicted to true scores, as `fit_logistic` found it.

    f(x) = low + (high - low) / (1 + exp(-(x - middle) / scale)), with scale > 0.
    """

    low: float  # low, high: in the unit of the true scores
    high: float
    middle: float  # middle, scale: in the unit of the predicted scores
    scale: float
    failure: str | None  # why there is no fit; all four values are NaN then


def bin_rates(true_bins: NDArray[np.integer], stated_bins: NDArray[np.integer]) -> BinRates:
    """How often the stated bin is the true one, and at most one away. Both have shape (n,), values 0 to 9."""
    if not len(true_bins):
        return BinRates(float("nan"), float("nan"))
    distance = np.abs(true_bins.astype(np.int64) - stated_bins.astype(np.int64))
    return BinRates(float((distance == 0).mean()), float((distance <= 1).mean()))


def tie_share(values: NDArray[np.generic]) -> float:
    """Share of all pairs of images that have equal values, 0 to 1; such pairs have no order. NaN below two images."""
    n = len(values)
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else float("nan")


def fit_logistic(true: Array, predicted: Array) -> Logistic:
    """The monotone four-parameter logistic from predicted to true scores, by least squares (VQEG, FR-TV phase I, 2000).

    Arrays of shape (n,). Fit it on one set and apply it to another (`apply_logistic`); a figure after a fit on its own
    images is too good. The logistic falls where that fits better, and turns the sign of PLCC then. `failure` says why
    there is no fit: fewer than five images, constant or other than finite scores, or no convergence.
    """
    problem = _unfit(true, predicted)
    if problem:
        return _no_fit(problem)
    shift, unit = predicted.mean(), predicted.std()
    x = (predicted - shift) / unit
    rising = np.cov(x, true)[0, 1] >= 0
    ends = (true.min(), true.max()) if rising else (true.max(), true.min())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optimize.OptimizeWarning)  # of the covariance, which is not used
            (low, high, middle, log_scale), _ = optimize.curve_fit(_curve, x, true, p0=(*ends, 0.0, 0.0), maxfev=4000)
    except RuntimeError as error:  # no convergence
        return _no_fit(str(error))
    if not np.isfinite([low, high, middle, np.exp(log_scale)]).all():
        return _no_fit("the parameters are not finite")
    return Logistic(float(low), float(high), float(shift + unit * middle), float(unit * np.exp(log_scale)), None)


def apply_logistic(fit: Logistic, predicted: Array) -> Array:
    """Predicted scores on the scale of the true ones, shape (n,). All NaN without a fit, so each figure is NaN too."""
    return np.asarray(fit.low + (fit.high - fit.low) * special.expit((predicted - fit.middle) / fit.scale))


def earth_movers_distance(distributions: Array, values: Array, votes: Array, vote_values: Array) -> Array:
    """Distance of each predicted distribution from the distribution of votes, shape (n,), in the unit of the scores.

    The mean distance that the mass must move from `values` (K,) with `distributions` (n, K) to `vote_values` (V,) with
    `votes` (n, V), which may be counts. Both are on the scale of the scores. NaN for an image without votes. Raises
    `DataError` for unequal numbers of images and negative votes.
    """
    if len(distributions) != len(votes) or (votes < 0).any():
        raise DataError(
            f"expected votes of each of {len(distributions)} images, none negative; found {votes.shape}, the least"
            f" {votes.min(initial=0):g}"
        )
    return np.array(
        [
            stats.wasserstein_distance(values, vote_values, p, v) if v.sum() > 0 else np.nan
            for p, v in zip(distributions, votes, strict=True)
        ]
    )


def _curve(x: Array, low: float, high: float, middle: float, log_scale: float) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(low + (high - low) * special.expit((x - middle) * np.exp(-log_scale)))


def _unfit(true: Array, predicted: Array) -> str | None:
    if len(true) < 5:
        return f"a logistic of four parameters needs at least five images, found {len(true)}"
    if not np.isfinite(true).all() or not np.isfinite(predicted).all():
        return "some scores are not finite"
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return "the true or the predicted scores are constant"
    return None


def _no_fit(why: str) -> Logistic:
    nan = float("nan")
    return Logistic(nan, nan, nan, nan, why)
