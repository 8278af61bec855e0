"""A figure with its interval, tables of them, and the reference values of section 4.3 of the paper."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.tables.metrics import METRICS

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure and its interval; NaN where it is not defined (correlation of constant predictions)."""

    value: float
    low: float
    high: float
    rows: int


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"), 0)
"""A figure that is not there."""


def metrics_table(found: Mapping[str, Estimate], split: str) -> pa.Table:
    """Figures of one split, by their names, as `METRICS`."""
    rows = [{"split": split, "metric": name, **estimate._asdict()} for name, estimate in found.items()]
    return pa.Table.from_pylist(rows, schema=METRICS.schema)


def estimate_of(metrics: pa.Table, name: str, split: str | None = None) -> Estimate:
    """A figure of a table in `METRICS`, of one split where the table has several; `UNDEFINED` if it lacks it."""
    for row in metrics.to_pylist():
        if row["metric"] == name and split in (None, row["split"]):
            return Estimate(row["value"], row["low"], row["high"], row["rows"])
    return UNDEFINED


def fit_reference_values(distributions: Array, true: Array) -> Array:
    """The ten reference values s_i that minimise sum over images of (score - sum_i s_i p_i)^2 (section 4.3).

    `distributions` has shape (n, 10), rows sum to 1; the result is on the data set's own scale. If a score never gets
    any probability, the solution is that of least norm around the mean score.
    """
    mean = true.mean()
    solution = np.linalg.lstsq(distributions, true - mean, rcond=1e-6)[0]
    return np.asarray(solution + mean)
