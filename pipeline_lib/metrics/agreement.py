"""The agreement of two judges on the same explanations: rank correlation, chance-corrected and raw agreement."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.scores import Estimate

Array = NDArray[np.float64]

_GRADES = np.arange(5.0)


class Agreement(NamedTuple):
    """Agreement of two judges on consistency; NaN where a figure is not defined (no rows, constant grades)."""

    rows: int  # explanations that both judges graded
    spearman: Estimate
    kappa: Estimate  # Cohen's, with quadratic weights
    same: float  # share of equal grades
    within_one: float  # share of grades at most one apart


def judge_agreement(
    first: pa.Table, second: pa.Table, *, split: str, samples: int, confidence: float, seed: int
) -> Agreement:
    """Compare the consistency grades 0..4 of two tables in `VERDICTS` on the same rows of a split.

    Only rows that both judges graded count. Intervals are percentile bootstraps over images, not over rows, so that
    tables with several explanations of an image (those of several models) may be compared too. Raises `DataError` when
    the tables do not list the same images in the same order.
    """
    a, b = (table.filter(pc.equal(table["split"], split)) for table in (first, second))
    images = a["image"].to_pylist()
    if images != b["image"].to_pylist():
        raise DataError(
            f"two judges can be compared on the same rows alone; on {split} they have {a.num_rows} and {b.num_rows},"
            " or other images"
        )
    pairs = list(zip(images, a["consistency"].to_pylist(), b["consistency"].to_pylist(), strict=True))
    counts = _contingency([(image, x, y) for image, x, y in pairs if x is not None and y is not None])
    total = counts.sum(axis=0)
    rows = int(total.sum())
    distance = np.abs(_GRADES[:, None] - _GRADES[None, :])
    spreads = _resampled(counts, samples, seed)
    return Agreement(
        rows=rows,
        spearman=_estimate(_spearman, total, spreads, confidence),
        kappa=_estimate(_kappa, total, spreads, confidence),
        same=float(total[distance == 0].sum() / rows) if rows else float("nan"),
        within_one=float(total[distance <= 1].sum() / rows) if rows else float("nan"),
    )


def _contingency(pairs: list[tuple[str, int, int]]) -> Array:
    """How often an image got each pair of grades, shape (images, 5, 5); all figures follow from it."""
    at = {image: index for index, image in enumerate(dict.fromkeys(image for image, _, _ in pairs))}
    counts = np.zeros((len(at), 5, 5))
    for image, x, y in pairs:
        counts[at[image], x, y] += 1
    return counts


def _resampled(counts: Array, samples: int, seed: int) -> Array:
    """Contingency tables of bootstrap samples of the images, shape (samples, 5, 5)."""
    images = len(counts)
    if not images:
        return np.zeros((0, 5, 5))
    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // images)  # resamples at a time: memory stays bounded for any number of images
    tables = []
    for start in range(0, samples, block):
        times = rng.multinomial(images, np.full(images, 1 / images), size=min(block, samples - start))
        tables.append(times @ counts.reshape(images, 25))
    return np.concatenate(tables).reshape(-1, 5, 5)


def _spearman(tables: Array) -> Array:
    """Pearson correlation of mid-ranks, for contingency tables of shape (.., 5, 5)."""
    a, b = tables.sum(axis=-1), tables.sum(axis=-2)
    ranks = [
        np.cumsum(side, axis=-1) - side / 2 for side in (a, b)
    ]  # all ranks are half too low, which does not matter
    n = tables.sum(axis=(-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (rank - ((rank * side).sum(axis=-1) / n)[..., None] for rank, side in zip(ranks, (a, b), strict=True))
        covariance = (tables * x[..., :, None] * y[..., None, :]).sum(axis=(-1, -2))
        correlation = covariance / np.sqrt((a * x * x).sum(axis=-1) * (b * y * y).sum(axis=-1))
    varied = ((a > 0).sum(axis=-1) > 1) & ((b > 0).sum(axis=-1) > 1)  # rounding leaves a constant's deviations above 0
    return np.asarray(np.where(varied, correlation, np.nan))


def _kappa(tables: Array) -> Array:
    """Cohen's kappa with quadratic weights, for contingency tables of shape (.., 5, 5)."""
    weights = (_GRADES[:, None] - _GRADES[None, :]) ** 2
    n = tables.sum(axis=(-1, -2))
    expected = (tables.sum(axis=-1)[..., :, None] * tables.sum(axis=-2)[..., None, :] * weights).sum(axis=(-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - (tables * weights).sum(axis=(-1, -2)) * n / expected)


def _estimate(figure: Callable[[Array], Array], total: Array, spreads: Array, confidence: float) -> Estimate:
    values = figure(spreads)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail]) if np.isfinite(values).any() else (np.nan, np.nan)
    return Estimate(float(figure(total)), float(low), float(high), int(total.sum()))
