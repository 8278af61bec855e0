"""The readings of a digit distribution, against brute force and exact small cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.readings import (
    MONOTONE_FROM,
    distribution_spread,
    expected_bins,
    fit_monotone_values,
    stated_digits,
    used_reference_values,
)

MEANS = np.array([1.0, 2, 2.5, 3, 4, 5, 5.5, 6, 8, 9])


def images(n: int, seed: int = 0, slope: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Distributions, and scores that rise by `slope` for each unit of the unfitted prediction."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(10, 0.3), n)
    return p, 3 + slope * (p @ MEANS) + rng.normal(0, 0.3, n)


def certain(*digits: int) -> np.ndarray:
    return np.eye(10)[list(digits)]


def test_the_stated_digit_is_the_most_probable_one_and_the_lower_of_two() -> None:
    p = np.array([[0, 0, 0.6, 0, 0, 0, 0, 0, 0.4, 0], [0, 0.3, 0.2, 0.3, 0, 0, 0, 0.2, 0, 0]])
    assert stated_digits(p).tolist() == [2, 1]
    assert stated_digits(certain(9, 0, 4)).tolist() == [9, 0, 4]


def test_expected_bins_and_their_spread() -> None:
    found = expected_bins(np.array([[0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5], [0, 0, 0, 0.25, 0.75, 0, 0, 0, 0, 0]]))
    assert found.bins.tolist() == [4.5, 3.75] and found.spread_bins == 0.375
    assert expected_bins(certain(3, 3, 3)).spread_bins == 0
    assert np.isnan(expected_bins(np.empty((0, 10))).spread_bins)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_spread_of_a_distribution_is_that_of_scipy(seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.full(10, 0.3), 4)
    expected = [stats.rv_discrete(values=(np.arange(10), row)).std() for row in p]
    np.testing.assert_allclose(distribution_spread(p, np.arange(10.0)), expected, atol=1e-6)
    np.testing.assert_allclose(distribution_spread(p, 1e6 + np.arange(10.0)), expected, atol=1e-6)


def test_the_spread_of_a_certain_digit_is_zero() -> None:
    assert distribution_spread(certain(0, 6), MEANS).tolist() == [0, 0]


@pytest.mark.parametrize("strength", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_monotone_values_minimise_what_they_say(strength: float, slope: float) -> None:
    p, true = images(40, slope=slope)
    true[:2] = -100, 100  # the range does not bind, except where b >= 0 does

    def loss(line: np.ndarray) -> float:
        values = line[0] + max(line[1], 0) * MEANS
        return float(((true - p @ values) ** 2).sum() + strength * ((values - MEANS) ** 2).sum())

    found = fit_monotone_values(p, true, MEANS, strength=strength)
    b = (found[9] - found[0]) / (MEANS[9] - MEANS[0])
    line = np.array([found[0] - b * MEANS[0], b])
    np.testing.assert_allclose(found, line[0] + b * MEANS, atol=1e-8)
    best = optimize.differential_evolution(loss, [(-300, 300), (0, 50)], seed=0, tol=1e-12)
    assert loss(line) == pytest.approx(best.fun, rel=1e-6)


def test_a_biased_digit_is_corrected_exactly() -> None:
    p, _ = images(200)
    true = 2 + 0.5 * (p @ MEANS)
    found = fit_monotone_values(p, true, MEANS, strength=0)
    np.testing.assert_allclose(found, np.clip(2 + 0.5 * MEANS, true.min(), true.max()), atol=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.0, 1.0, 30.0]), st.floats(-3, 3))
@settings(max_examples=80, deadline=None)
def test_values_never_fall_and_stay_inside_the_scores(seed: int, n: int, strength: float, slope: float) -> None:
    p, true = images(n, seed, slope)
    found = fit_monotone_values(p, true, MEANS, strength=strength)
    assert found.shape == (10,) and (np.diff(found) >= 0).all()
    assert true.min() <= found[0] and found[9] <= true.max()


def test_scores_that_fall_with_the_digit_give_equal_values_at_their_mean() -> None:
    p, true = images(60, slope=-1)
    np.testing.assert_allclose(fit_monotone_values(p, true, MEANS, strength=0), true.mean())


def test_more_strength_moves_values_to_the_bin_means() -> None:
    p, true = images(60)
    true[:2] = 0, 10  # all bin means are inside
    distances = [np.abs(fit_monotone_values(p, true, MEANS, strength=s) - MEANS).max() for s in (0, 1, 30, 1e9)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-6 < 1 < distances[0]


def test_the_order_of_images_is_that_of_the_unfitted_reading() -> None:
    """So distributions whose expectation says nothing about the score cannot gain, whatever their shape says."""
    rng = np.random.default_rng(0)
    true = rng.normal(5, 1, 500)
    mass = stats.norm.cdf(true - 5)[:, None]  # a better image has less at both ends: symmetric, expectation 4.5
    p = mass * np.full(10, 0.1) + (1 - mass) * np.array([0.5, *np.zeros(8), 0.5])
    p += rng.dirichlet(np.ones(10), 500)
    p /= p.sum(axis=1, keepdims=True)
    unfitted = stats.spearmanr(true, p @ np.arange(10)).statistic
    monotone = stats.spearmanr(true, p @ fit_monotone_values(p, true, np.arange(10.0))).statistic
    free = stats.spearmanr(true, p @ np.linalg.lstsq(p, true, rcond=None)[0]).statistic
    assert free > 0.7 and abs(unfitted) < 0.15 and monotone <= abs(unfitted) + 0.02


def test_few_validation_images_give_the_unfitted_values() -> None:
    p, true = images(MONOTONE_FROM)
    found = used_reference_values(p, true, MEANS)
    assert found.reading == "monotone"
    np.testing.assert_array_equal(found.values, fit_monotone_values(p, true, MEANS, strength=1))
    few = used_reference_values(p[1:], true[1:], MEANS)
    assert few.reading == "unfitted" and few.values is MEANS
    assert used_reference_values(p[:0], true[:0], MEANS).reading == "unfitted"


def test_wrong_shapes_and_values_are_refused() -> None:
    p, true = images(5)
    for wrong in (p[:, :9], p[0], np.where(p > 0.5, np.nan, p)):
        with pytest.raises(DataError):
            stated_digits(wrong)
    nan = np.where(np.arange(5) == 0, np.nan, true)
    for q, scores, means in (
        (p[:0], true[:0], MEANS), (p, true[:4], MEANS), (p, true, MEANS[:9]), (p, true, MEANS[::-1]), (p, nan, MEANS),
        (p, true, MEANS * np.inf),
    ):  # fmt: skip
        with pytest.raises(DataError):
            fit_monotone_values(q, scores, means)
