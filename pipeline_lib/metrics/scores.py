"""A figure with its interval, and the reference values of section 4.3 of the paper."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure and its interval; NaN where it is not defined (correlation of constant predictions)."""

    value: float
    low: float
    high: float
    rows: int


def fit_reference_values(distributions: Array, true: Array) -> Array:
    """The ten reference values s_i that minimise sum over images of (score - sum_i s_i p_i)^2 (section 4.3).

    `distributions` has shape (n, 10), rows sum to 1; the result is on the data set's own scale. If a score never gets
    any probability, the solution is that of least norm around the mean score.
    """
    mean = true.mean()
    solution = np.linalg.lstsq(distributions, true - mean, rcond=1e-6)[0]
    return np.asarray(solution + mean)
