"""Intervals of any figure: bootstrap over groups, paired differences of two models, Wilson intervals of rates."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.scores import Estimate

Array = NDArray[np.float64]
Figure = Callable[..., float]
"""A figure of columns of shape (n,), such as `krcc(true, predicted)`. NaN where it is not defined."""

FEWEST_GROUPS = 10
"""Groups from which on 95 % intervals were seen to hold the true figure often enough (`python -m bench.coverage`)."""

Change = Literal["raised", "lowered", "no difference shown"]


def grouped_estimate(
    figure: Figure,
    *columns: NDArray[np.generic],
    groups: NDArray[np.generic],
    samples: int,
    confidence: float,
    seed: int,
) -> Estimate:
    """A figure of `columns` with a bootstrap interval that resamples whole groups of images; all have shape (n,).

    Images of a group (a scene, a reference image) are alike, so they count as one draw. With few groups percentiles
    alone give narrow intervals, so they are widened for the t distribution of the number of groups (Hesterberg, What
    Teachers Should Know About the Bootstrap, 2015), which is `effective_groups` if groups differ in size.
    `intervals_too_narrow` says where this is not enough.
    NaN without an interval for fewer than two groups. Resamples where the figure is not defined are left out. Raises
    `DataError` for unequal lengths.
    """
    lengths = {len(column) for column in (*columns, groups)}
    if len(lengths) != 1:
        raise DataError(f"columns and groups must have one length, found {sorted(lengths)}")
    value = figure(*columns) if len(groups) else float("nan")
    members = group_rows(groups)
    if len(members) < 2:
        return Estimate(value, float("nan"), float("nan"), len(groups))
    rng = np.random.default_rng(seed)
    spread = np.empty(samples)
    for at in range(samples):
        rows = np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])
        spread[at] = figure(*(column[rows] for column in columns))
    low, high = expanded_percentiles(spread, effective_groups(groups), confidence)
    return Estimate(value, low, high, len(groups))


def paired_difference(
    figure: Figure,
    true: NDArray[np.generic],
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    *,
    groups: NDArray[np.generic],
    samples: int,
    confidence: float,
    seed: int,
) -> Estimate:
    """The figure of `after` less that of `before`, two models' predictions for the same images, shape (n,).

    Each resample of groups serves both models, so what makes an image hard for both does not widen the interval.
    Arguments and errors are those of `grouped_estimate`.
    """
    return grouped_estimate(
        lambda a, b, c: figure(a, c) - figure(a, b),
        true, before, after, groups=groups, samples=samples, confidence=confidence, seed=seed,
    )  # fmt: skip


def change(difference: Estimate) -> Change:
    """The word for a difference: *raised* or *lowered* if its interval is above or below 0, else *no difference shown*.

    An interval that touches 0 or is not defined shows no difference. The words are about the figure: a raised RMSE is
    worse.
    """
    if difference.low > 0:
        return "raised"
    return "lowered" if difference.high < 0 else "no difference shown"


def wilson_estimate(values: NDArray[np.generic], *, confidence: float) -> Estimate:
    """The rate of `values`, shape (n,), true or 1 against false or 0, with its Wilson score interval.

    The interval has a width for rates of 0 and 1 too. It takes images as independent; for groups use
    `grouped_estimate`. NaN for no values. Raises `DataError` for other values.
    """
    if not np.isin(values, (0, 1)).all():
        raise DataError("a rate is of values 0 and 1 alone")
    n, hits = len(values), int(values.sum())
    if not n:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    found = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return Estimate(hits / n, float(found.low), float(found.high), n)


def group_rows(groups: NDArray[np.generic]) -> list[NDArray[np.int64]]:
    """The rows of each group, in ascending order of the groups' values."""
    if not len(groups):
        return []
    _, at = np.unique(groups, return_inverse=True)
    order = np.argsort(at, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(at[order])) + 1)


def effective_groups(groups: NDArray[np.generic]) -> float:
    """The number of groups of equal size that vary as much: (sum of sizes)^2 / sum of squared sizes (Kish, 1965).

    It is the number of groups if all have one size, and near 1 if one group has nearly all images; 0 for no images.
    """
    sizes = np.array([len(rows) for rows in group_rows(groups)], dtype=np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def expanded_percentiles(spread: Array, groups: float, confidence: float) -> tuple[float, float]:
    """Ends of the interval from the figures of resamples of `groups` groups, shape (samples,); NaN are left out.

    `groups` may be a fraction (`effective_groups`). NaN for one group and without any defined figure.
    """
    defined = spread[np.isfinite(spread)]
    if groups <= 1 or not len(defined):
        return float("nan"), float("nan")
    tail = stats.norm.cdf(stats.t.ppf((1 - confidence) / 2, groups - 1) * np.sqrt(groups / (groups - 1)))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def intervals_too_narrow(groups: NDArray[np.generic]) -> bool:
    """Whether a 95 % interval of `grouped_estimate` holds the true figure in fewer than 93 % of simulated test sets.

    True below `FEWEST_GROUPS` effective groups. In the simulation of docs/experiments.md coverage depends on the number
    of groups, and little on the images of a group or on how alike they are. `groups` has shape (n,).
    """
    return effective_groups(groups) < FEWEST_GROUPS
