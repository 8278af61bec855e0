"""Discretise scores into the ten integers a model can state (section 4.1)."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.config.base import Split
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.recipe import SCORES

LEAST_IMAGES: dict[Split, int] = {"train": len(SCORES), "val": len(SCORES), "test": 2}
"""Least images of a split: to fit ten bins, to fit ten reference values, and to correlate."""


class Bins(NamedTuple):
    """Nine inner edges on the data set's own scale, ascending, and the mean training score of each of the ten bins."""

    edges: NDArray[np.float64]
    mean_scores: NDArray[np.float64]


def fit_bins(train_scores: NDArray[np.float64]) -> Bins:
    """Ten quantile bins of the training scores (section 4.1).

    Edge k is the smallest training score that at least (k+1)/10 of the training scores do not exceed, so an edge is
    always a score that occurs, without rounding. **A score on an edge belongs to the bin below**: bin k is (edge k-1,
    edge k]. If many scores are equal, a bin can be empty; its mean is then its edge.

    Raises `DataError` when there are fewer scores than bins or all are equal.
    """
    if len(train_scores) < len(SCORES):
        raise DataError(
            f"{len(train_scores)} training images cannot fill {len(SCORES)} bins; give at least {len(SCORES)}"
        )
    if np.ptp(train_scores) == 0:
        raise DataError(f"all {len(train_scores)} training scores are {train_scores[0]:g}; there is nothing to learn")
    edges = np.quantile(train_scores, np.arange(1, len(SCORES)) / len(SCORES), method="inverted_cdf")
    bins = assign_bins(train_scores, edges)
    upper = np.append(edges, train_scores.max())
    # The mean of tied scores can round to just above them.
    means = [min(train_scores[bins == k].mean(), upper[k]) if (bins == k).any() else upper[k] for k in SCORES]
    return Bins(edges, np.array(means))


def assign_bins(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int8]:
    """The bin 0..9 of each score: the number of edges strictly below it."""
    return np.searchsorted(edges, scores, side="left").astype(np.int8)


def bins_table(bins: Bins, train_bins: NDArray[np.int8]) -> pa.Table:
    """The bins in the columns of `BINS`."""
    return pa.table(
        {
            "bin": list(SCORES),
            "lower": np.concatenate([[-np.inf], bins.edges]),
            "upper": np.concatenate([bins.edges, [np.inf]]),
            "mean_score": bins.mean_scores,
            "train_images": np.bincount(train_bins, minlength=len(SCORES)),
        }
    )
