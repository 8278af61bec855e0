"""Conformal intervals by brute force and by their coverage; CRPS by its integral; reliability by counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.conformal import Intervals
from pipeline_lib.metrics.readings import distribution_spread, fit_monotone_values
from pipeline_lib.metrics.uncertainty import conformal_intervals, crps, group_folds, reliability

VALUES = np.arange(1.0, 11)


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose error is as wide as their distribution says."""
    rng = np.random.default_rng(seed)
    centre, width = rng.uniform(2, 7, n), np.exp(rng.uniform(-1, 1, n))
    p = np.exp(-((np.arange(10) - centre[:, None]) ** 2) / (2 * width[:, None] ** 2))
    return p / p.sum(axis=1, keepdims=True), 1 + centre + width * rng.normal(size=n)


def fixed(p: np.ndarray, true: np.ndarray) -> np.ndarray:
    return VALUES


def fitted(p: np.ndarray, true: np.ndarray) -> np.ndarray:
    return fit_monotone_values(p, true, VALUES)


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_intervals_by_brute_force(folds: int, level: float) -> None:
    p, true = images(19, 0)
    new, _ = images(4, 1)
    groups = np.arange(19) // 2
    found = conformal_intervals(fitted, p, true, new, groups=groups, levels=[level], folds=folds, seed=3)
    for at in range(4):
        lows, highs = [], []
        for fit_on, held in group_folds(groups, folds, 3):
            values = fitted(p[fit_on], true[fit_on])
            bin_sd = (values[9] - values[0]) / 10 / np.sqrt(12)
            spread = np.sqrt(distribution_spread(new[at : at + 1], values)[0] ** 2 + bin_sd**2)
            for row in held:
                own = np.sqrt(distribution_spread(p[row : row + 1], values)[0] ** 2 + bin_sd**2)
                half = abs(true[row] - p[row] @ values) / own * spread
                lows.append(new[at] @ values - half)
                highs.append(new[at] @ values + half)
        rank = int(np.ceil(round(20 * level, 9)))
        assert found.high[0, at] == pytest.approx(sorted(highs)[rank - 1])
        assert found.low[0, at] == pytest.approx(sorted(lows, reverse=True)[rank - 1])


def test_coverage_is_the_level_and_intervals_follow_the_spread() -> None:
    levels = [0.5, 0.8, 0.9]
    measured, widths = np.zeros(3), []
    new, true_new = images(2000, 99)
    for seed in range(20):
        p, true = images(200, seed)
        found = conformal_intervals(fitted, p, true, new, groups=np.arange(200), levels=levels, folds=5, seed=seed)
        rows = reliability(true_new, found, levels, confidence=0.95)
        measured += [row.coverage.value for row in rows]
        widths.append([row.mean_width for row in rows])
    np.testing.assert_allclose(measured / 20, levels, atol=0.025)
    assert (np.diff(np.mean(widths, axis=0)) > 0).all()
    uncertain = distribution_spread(new, VALUES) > 2
    width = (found.high - found.low)[2]
    assert width[uncertain].mean() > 1.5 * width[~uncertain].mean()
    hits = ((found.low <= true_new) & (true_new <= found.high))[2]
    errors = np.abs(true_new - new @ VALUES)
    same_width = errors <= np.quantile(errors, 0.9)
    gaps = [abs(inside[uncertain].mean() - inside[~uncertain].mean()) for inside in (hits, same_width)]
    assert gaps[0] < 0.1 and gaps[1] > 0.2


def test_fitting_and_calibrating_share_no_group() -> None:
    p, true = images(60, 0)
    groups = np.arange(60) // 4
    seen: list[set[int]] = []

    def spy(q: np.ndarray, scores: np.ndarray) -> np.ndarray:
        seen.append({int(np.flatnonzero(true == score)[0]) // 4 for score in scores})
        return VALUES

    conformal_intervals(spy, p, true, p[:1], groups=groups, levels=[0.9], folds=3, seed=0)
    assert len(seen) == 3 and all(len(part) == 10 for part in seen)
    held = [set(range(15)) - part for part in seen]
    assert set().union(*held) == set(range(15)) and sum(map(len, held)) == 15


@given(st.lists(st.integers(0, 6), min_size=8, max_size=40), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_folds_hold_each_row_out_once_and_split_no_group(groups: list[int], seed: int) -> None:
    names = np.array([*groups, 7, 8])
    found = group_folds(names, 3, seed)
    assert sorted(np.concatenate([held for _, held in found])) == list(range(len(names)))
    for fit_on, held in found:
        assert not set(names[fit_on]) & set(names[held]) and len(fit_on) + len(held) == len(names)


def test_too_few_images_for_a_level_give_infinite_intervals() -> None:
    p, true = images(9, 0)
    found = conformal_intervals(fixed, p, true, p, groups=np.arange(9), levels=[0.9, 0.91], folds=3, seed=0)
    assert np.isfinite(found.low[0]).all() and np.isfinite(found.high[0]).all()
    assert (found.low[1] == -np.inf).all() and (found.high[1] == np.inf).all()


def test_certain_digits_and_equal_reference_values_have_finite_intervals() -> None:
    p, true = np.eye(10)[np.arange(40) % 10], np.arange(40) % 10 + 1.0 + np.tile([0.5, -0.5], 20)
    found = conformal_intervals(fixed, p, true, p[:1], groups=np.arange(40), levels=[0.9], folds=4, seed=0)
    np.testing.assert_allclose((found.low[0, 0], found.high[0, 0]), (0.5, 1.5))
    flat = conformal_intervals(
        lambda q, y: np.full(10, 5.0), p, true, p[:1], groups=np.arange(40), levels=[0.9], folds=4, seed=0
    )
    expected = sorted(np.abs(true - 5))[36]  # the 37th of 40
    np.testing.assert_allclose((flat.low[0, 0], flat.high[0, 0]), (5 - expected, 5 + expected))


def test_wrong_arguments_are_refused() -> None:
    p, true = images(10, 0)
    good = {"groups": np.arange(10), "levels": [0.9], "folds": 5, "seed": 0}
    for wrong in ({"groups": np.arange(9)}, {"groups": np.arange(10) % 4}, {"levels": [90]}, {"folds": 1}):
        with pytest.raises(DataError):
            conformal_intervals(fixed, p, true, p, **(good | wrong))
    with pytest.raises(DataError):
        conformal_intervals(fixed, p, true[:9], p, **good)


def test_reliability_counts() -> None:
    intervals = Intervals(np.array([[0.0, 0, 0, 0], [-1, -1, -1, -1]]), np.array([[1.0, 1, 1, 1], [2, 2, 2, 3]]))
    found = reliability(np.array([1.0, 0.0, 1.5, 9.0]), intervals, [0.5, 0.9], confidence=0.95)
    assert [(row.level, row.coverage.value, row.mean_width) for row in found] == [(0.5, 0.5, 1.0), (0.9, 0.75, 3.25)]
    assert found[0].coverage.low == pytest.approx(0.15, abs=0.01) and found[0].coverage.rows == 4


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_crps_is_the_integral_of_squared_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, values, true = rng.dirichlet(np.full(10, 0.3), 3), rng.uniform(0, 10, 10), rng.uniform(-2, 12, 3)
    grid = np.linspace(-3, 13, 400_001)
    for row, y, found in zip(p, true, crps(p, values, true), strict=True):
        order = np.argsort(values)
        below = np.append(0.0, np.cumsum(row[order]))[np.searchsorted(values[order], grid, side="right")]
        assert found == pytest.approx(((below - (grid >= y)) ** 2).sum() * (grid[1] - grid[0]), abs=1e-3)


def test_crps_of_a_certain_digit_is_the_absolute_error() -> None:
    assert crps(np.eye(10)[[2, 9]], VALUES, np.array([5.0, 10.0])).tolist() == [2, 0]
