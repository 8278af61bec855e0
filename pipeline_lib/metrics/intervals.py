"""Intervals of any figure: bootstrap over groups, paired differences of two models, Wilson intervals of rates."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.figures import mean
from pipeline_lib.metrics.scores import Estimate

Array = NDArray[np.float64]
Figure = Callable[..., Array]
"""A figure of columns and weights, such as `srcc(true, predicted, weights)` in `pipeline_lib.metrics.figures`."""

_BLOCK_WEIGHTS = 2_000_000  # weights at a time: memory stays bounded for any number of images

FEWEST_GROUPS = 10
"""Groups from which on 95 % intervals were seen to hold the true figure often enough (`python -m bench.coverage`)."""

Change = Literal["raised", "lowered", "no difference shown"]


def grouped_estimates(
    figures: Mapping[str, Callable[[Array], Array]],
    *,
    groups: NDArray[np.generic],
    samples: int,
    confidence: float,
    seed: int,
) -> dict[str, Estimate]:
    """Figures of images with bootstrap intervals that resample whole groups of images; `groups` has shape (n,).

    Each figure takes weights of shape (s, n) and gives s values (`pipeline_lib.metrics.figures`). All figures see the
    same resamples, so a difference of two models is a figure too.

    Images of a group (a scene, a reference image) are alike, so they count as one draw. With few groups percentiles
    alone give narrow intervals, so they are widened for the t distribution of the number of groups (Hesterberg, What
    Teachers Should Know About the Bootstrap, 2015), which is `effective_groups` if groups differ in size.
    `intervals_too_narrow` says where this is not enough. NaN without an interval for fewer than two groups. Resamples
    where a figure is not defined are left out.
    """
    n, count = len(groups), len(group_rows(groups))
    once = np.ones((1, n))
    values = {name: float(figure(once)[0]) if n else float("nan") for name, figure in figures.items()}
    spreads: dict[str, list[Array]] = {name: [] for name in figures}
    for weights in _resamples(groups, samples, seed) if count > 1 else ():
        for name, figure in figures.items():
            spreads[name].append(figure(weights))
    effective = effective_groups(groups)
    found = {}
    for name, spread in spreads.items():
        low, high = expanded_percentiles(np.concatenate(spread) if spread else np.empty(0), effective, confidence)
        found[name] = Estimate(values[name], low, high, n)
    return found


def grouped_estimate(
    figure: Figure,
    *columns: NDArray[np.generic],
    groups: NDArray[np.generic],
    samples: int,
    confidence: float,
    seed: int,
) -> Estimate:
    """One figure of columns of shape (n,), such as `srcc` of true and predicted scores; see `grouped_estimates`.

    Raises `DataError` for unequal lengths.
    """
    lengths = {len(column) for column in (*columns, groups)}
    if len(lengths) != 1:
        raise DataError(f"columns and groups must have one length, found {sorted(lengths)}")
    figures = {"": lambda weights: figure(*columns, weights)}
    return grouped_estimates(figures, groups=groups, samples=samples, confidence=confidence, seed=seed)[""]


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
        lambda a, b, c, weights: figure(a, c, weights) - figure(a, b, weights),
        true, before, after, groups=groups, samples=samples, confidence=confidence, seed=seed,
    )  # fmt: skip


def rate_estimate(
    values: NDArray[np.generic], *, groups: NDArray[np.generic], samples: int, confidence: float, seed: int
) -> Estimate:
    """The rate of `values`, shape (n,), true or 1 against false or 0, with an interval that has a width at 0 and 1 too.

    Wilson's interval if each image is a group of its own; else the bootstrap over groups. If all values of several
    images of a group are equal, a bootstrap has no width: Wilson's interval then counts the groups instead of the
    images.
    """
    if len(group_rows(groups)) == len(values):
        return wilson_estimate(values, confidence=confidence)
    if len(np.unique(values)) > 1:
        return grouped_estimate(
            mean, values.astype(np.float64), groups=groups, samples=samples, confidence=confidence, seed=seed
        )
    of_groups = wilson_estimate(values[: round(effective_groups(groups))], confidence=confidence)
    return of_groups._replace(rows=len(values))


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


def _resamples(groups: NDArray[np.generic], samples: int, seed: int) -> Iterator[Array]:
    """Blocks of weights of shape (s, n): how often each image is in each bootstrap sample of the groups."""
    names, at = np.unique(groups, return_inverse=True)
    count = len(names)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_WEIGHTS // len(groups))
    for start in range(0, samples, block):
        times = rng.multinomial(count, np.full(count, 1 / count), size=min(block, samples - start))
        yield times[:, at].astype(np.float64)
