"""Quality of predicted scores: PLCC, SRCC and RMSE on the data set's own scale, with bootstrap intervals."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure and its bootstrap interval; NaN where it is not defined (correlation of constant predictions)."""

    value: float
    low: float
    high: float
    rows: int


def score_metrics(true: Array, predicted: Array, *, samples: int, confidence: float, seed: int) -> dict[str, Estimate]:
    """`plcc`, `srcc` and `rmse` of predicted against true scores, shape (n,) each (section 4.3).

    Intervals are percentile bootstraps over images; all three figures share the resamples.
    """
    rng = np.random.default_rng(seed)
    n = len(true)
    spreads: dict[str, list[Array]] = {"plcc": [], "srcc": [], "rmse": []}
    block = max(1, 2_000_000 // n)  # resamples at a time: memory stays bounded for any number of images
    for start in range(0, samples, block):
        drawn = rng.integers(n, size=(min(block, samples - start), n))
        a, b = true[drawn], predicted[drawn]
        spreads["plcc"].append(_pearson(a, b))
        spreads["srcc"].append(_pearson(stats.rankdata(a, axis=1), stats.rankdata(b, axis=1)))
        spreads["rmse"].append(_rmse(a, b))
    figures = {
        "plcc": _pearson(true, predicted),
        "srcc": _pearson(stats.rankdata(true), stats.rankdata(predicted)),
        "rmse": _rmse(true, predicted),
    }
    return {
        name: _estimate(float(value), np.concatenate(spreads[name]), confidence, n) for name, value in figures.items()
    }


def mean_estimate(values: Array, *, samples: int, confidence: float, seed: int) -> Estimate:
    """A mean (a rate, an average grade) with its percentile bootstrap interval; NaN for no values."""
    if len(values) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    drawn = np.random.default_rng(seed).integers(len(values), size=(samples, len(values)))
    return _estimate(float(values.mean()), values[drawn].mean(axis=1), confidence, len(values))


def fit_reference_values(distributions: Array, true: Array) -> Array:
    """The ten reference values s_i that minimise sum over images of (score - sum_i s_i p_i)^2 (section 4.3).

    `distributions` has shape (n, 10), rows sum to 1; the result is on the data set's own scale. If a score never gets
    any probability, the solution is that of least norm around the mean score.
    """
    mean = true.mean()
    solution = np.linalg.lstsq(distributions, true - mean, rcond=1e-6)[0]
    return np.asarray(solution + mean)


def _pearson(a: Array, b: Array) -> Array:
    defined = (np.ptp(a, axis=-1) > 0) & (np.ptp(b, axis=-1) > 0)  # rounding leaves a constant's deviations above 0
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.asarray(np.where(defined, correlation, np.nan))


def _rmse(true: Array, predicted: Array) -> Array:
    return np.asarray(np.sqrt(((true - predicted) ** 2).mean(axis=-1)))


def _estimate(value: float, spread: Array, confidence: float, rows: int) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(spread, [tail, 1 - tail]) if np.isfinite(spread).any() else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), rows)
