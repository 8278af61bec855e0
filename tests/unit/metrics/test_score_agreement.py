"""Bins, ties, the logistic and the earth mover's distance, against scipy and by counting."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.score_agreement import (
    apply_logistic,
    bin_rates,
    earth_movers_distance,
    fit_logistic,
    tie_share,
)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30))
@settings(deadline=None)
def test_the_share_of_ties_is_that_of_equal_pairs(values: list[int]) -> None:
    pairs = list(itertools.combinations(values, 2))
    assert tie_share(np.array(values)) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_nothing_gives_nan_and_no_warning() -> None:
    one, none = np.full(5, 0.1), np.array([])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan([tie_share(none), tie_share(one[:1])]).all()
        assert np.isnan(bin_rates(np.array([], dtype=int), np.array([], dtype=int))).all()


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int8])
def test_rates_of_bins(kind: type) -> None:
    true, stated = np.array([0, 3, 9, 5, 5], dtype=kind), np.array([1, 3, 7, 4, 9], dtype=kind)
    assert bin_rates(true, stated) == (0.2, 0.6)


@pytest.mark.parametrize("ends", [(2.0, 8.0), (8.0, 2.0)])
@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e4])
def test_a_logistic_is_recovered_in_any_unit_rising_or_falling(ends: tuple[float, float], unit: float) -> None:
    x = np.random.default_rng(0).normal(3, 2, 200)
    true = ends[0] + (ends[1] - ends[0]) * special.expit((x - 2.5) / 0.7)
    fit = fit_logistic(true, x * unit)
    assert fit.failure is None and fit.scale > 0
    np.testing.assert_allclose(fit[:4], [*ends, 2.5 * unit, 0.7 * unit], rtol=1e-4)
    np.testing.assert_allclose(apply_logistic(fit, x * unit), true, atol=1e-4)


def test_a_logistic_of_one_set_straightens_another() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 3, 600)
    true = 5 + 4 * special.expit(2 * x) + rng.normal(0, 0.1, 600)
    fit = fit_logistic(true[:300], x[:300])
    raw, mapped = (stats.pearsonr(true[300:], y)[0] for y in (x[300:], apply_logistic(fit, x[300:])))
    assert raw < 0.9 and mapped > 0.99


def test_a_fit_on_few_values_gives_no_warning() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        fit_logistic(np.array([1.0, 1, 1, 2, 2, 2]), np.array([0.0, 0, 0, 1, 1, 1]))
    assert not shown


def test_a_fit_that_fails_says_so_and_its_figures_are_nan() -> None:
    x = np.linspace(0, 1, 50)
    nan = np.where(x == 0, np.nan, x)
    runs_away = np.exp(5 * x), x  # convex all over: the upper end goes to infinity
    for true, predicted in (runs_away, (x[:4], x[:4]), (x * 0, x), (x, x * 0), (nan, x), (x, nan)):
        fit = fit_logistic(true, predicted)
        assert fit.failure and np.isnan(fit[:4]).all()
        assert np.isnan(apply_logistic(fit, x)).all()


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_earth_movers_distance_is_that_between_cumulative_distributions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, votes = rng.dirichlet(np.full(10, 0.3), 3), rng.integers(0, 9, (3, 5)) + 1
    values, vote_values = np.sort(rng.uniform(0, 10, 10)), np.array([1.0, 3.0, 5.0, 7.0, 9.0])
    grid = np.linspace(-1, 11, 24_001)
    steps = [
        (p[:, None, :] * (values <= grid[:, None])).sum(2),
        (votes[:, None, :] / votes.sum(1)[:, None, None] * (vote_values <= grid[:, None])).sum(2),
    ]
    expected = np.abs(steps[0] - steps[1]).sum(1) * (grid[1] - grid[0])
    np.testing.assert_allclose(earth_movers_distance(p, values, votes, vote_values), expected, atol=0.02)


def test_the_earth_movers_distance_of_ends_and_wrong_values() -> None:
    ends = np.eye(10)[[0]], np.arange(10.0)
    assert earth_movers_distance(*ends, np.eye(10)[[9]], np.arange(10.0))[0] == pytest.approx(9)
    assert earth_movers_distance(*ends, 7 * np.eye(10)[[0]], np.arange(10.0))[0] == 0
    assert np.isnan(earth_movers_distance(*ends, np.zeros((1, 2)), np.array([1.0, 2.0])))[0]
    for wrong in (np.array([[-1.0, 2.0]]), np.ones((2, 2))):
        with pytest.raises(DataError):
            earth_movers_distance(*ends, wrong, np.array([1.0, 2.0]))
