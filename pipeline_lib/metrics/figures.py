"""Figures of many resamples at once: SRCC, PLCC, KRCC, RMSE, MAE, means and more, of images that count several times.

Each figure takes columns of shape (n,), and `weights` of shape (s, n): how often each image is in each of s resamples.
It gives s values, NaN where it is not defined. A figure of the images themselves has one row of ones (`once`).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_BLOCK_PAIRS = 4_000_000  # pairs of images at a time, so that memory stays bounded for any number of images


def once(n: int) -> Array:
    """Weights of the images themselves, shape (1, n)."""
    return np.ones((1, n))


def mean(values: Array, weights: Array) -> Array:
    """Mean of the values; NaN for no images."""
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ values / weights.sum(axis=1))


def mae(true: Array, predicted: Array, weights: Array) -> Array:
    """Mean absolute error, in the unit of the scores."""
    return mean(np.abs(true - predicted), weights)


def rmse(true: Array, predicted: Array, weights: Array) -> Array:
    """Root of the mean squared error, in the unit of the scores."""
    return np.asarray(np.sqrt(mean((true - predicted) ** 2, weights)))


def plcc(true: Array, predicted: Array, weights: Array) -> Array:
    """Pearson's linear correlation; NaN when either column is constant."""
    columns = [np.broadcast_to(column, weights.shape) for column in (true, predicted)]
    return _pearson(columns[0], columns[1], weights, _varied(true, weights) & _varied(predicted, weights))


def srcc(true: Array, predicted: Array, weights: Array) -> Array:
    """Spearman's rank correlation, equal values at their mean rank; NaN when either column is constant."""
    varied = _varied(true, weights) & _varied(predicted, weights)
    return _pearson(_ranks(true, weights), _ranks(predicted, weights), weights, varied)


def krcc(true: Array, predicted: Array, weights: Array) -> Array:
    """Kendall's rank correlation tau-b; NaN when either column is constant."""
    pairs = [_untied_pairs(column, weights) for column in (true, predicted)]
    varied = _varied(true, weights) & _varied(predicted, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(varied, _agreement(true, predicted, weights) / np.sqrt(pairs[0] * pairs[1]), np.nan))


def ordered_share(true: Array, predicted: Array, weights: Array) -> Array:
    """Share of the pairs of images with different scores that the predictions order rightly; chance is .5.

    Two equal predictions count half. NaN when all scores are equal.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((_agreement(true, predicted, weights) / _untied_pairs(true, weights) + 1) / 2)


def _agreement(true: Array, predicted: Array, weights: Array) -> Array:
    """Ordered pairs of images in the same order by both columns, less those in opposite order."""
    n = len(true)
    agreement = np.zeros(len(weights))
    step = max(1, _BLOCK_PAIRS // max(n, 1))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        signs = np.sign(true[rows, None] - true) * np.sign(predicted[rows, None] - predicted)
        agreement += ((weights[:, rows] @ signs) * weights).sum(axis=1)
    return agreement


def _pearson(a: Array, b: Array, weights: Array, varied: NDArray[np.bool_]) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=1, keepdims=True)
        a, b = (x - (weights * x).sum(axis=1, keepdims=True) / total for x in (a, b))
        covariance = (weights * a * b).sum(axis=1)
        found = covariance / np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    return np.asarray(np.where(varied, found, np.nan))


def _varied(values: Array, weights: Array) -> NDArray[np.bool_]:
    """Whether a resample has two different values. Rounding leaves deviations of a constant above 0."""
    _, counts = _levels(values, weights)
    return np.asarray((counts > 0).sum(axis=1) > 1)


def _ranks(values: Array, weights: Array) -> Array:
    """Mean rank of each image's value in each resample, half too low, which a correlation does not see."""
    at, counts = _levels(values, weights)
    return np.asarray((np.cumsum(counts, axis=1) - counts / 2)[:, at])


def _untied_pairs(values: Array, weights: Array) -> Array:
    """Ordered pairs of images with different values, in each resample."""
    _, counts = _levels(values, weights)
    return np.asarray(weights.sum(axis=1) ** 2 - (counts**2).sum(axis=1))


def _levels(values: Array, weights: Array) -> tuple[NDArray[np.int64], Array]:
    """The level of each image, and how many images of each resample have each level, in ascending order."""
    if not len(values):
        return np.zeros(0, np.int64), np.zeros((len(weights), 0))
    _, at, times = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.append(0, np.cumsum(times)[:-1])
    return at, np.add.reduceat(weights[:, np.argsort(at, kind="stable")], starts, axis=1)
