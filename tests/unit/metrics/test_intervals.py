"""Intervals against scipy, by brute force, and by how often they contain the true figure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.coverage import coverage
from pipeline_lib.errors import DataError
from pipeline_lib.metrics.figures import krcc, mae, mean
from pipeline_lib.metrics.intervals import (
    change,
    effective_groups,
    expanded_percentiles,
    group_rows,
    grouped_estimate,
    intervals_too_narrow,
    paired_difference,
    rate_estimate,
    wilson_estimate,
)
from pipeline_lib.metrics.scores import Estimate

OPTIONS = {"samples": 2000, "confidence": 0.95, "seed": 0}


def images(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=n)
    return true, 0.7 * true + rng.normal(0, 0.7, n), 0.9 * true + rng.normal(0, 0.3, n)


@given(st.lists(st.sampled_from("abcd"), max_size=20))
@settings(deadline=None)
def test_rows_of_groups(names: list[str]) -> None:
    found = group_rows(np.array(names))
    assert [rows.tolist() for rows in found] == [[at for at, x in enumerate(names) if x == y] for y in sorted({*names})]


def test_an_interval_over_single_images_is_scipys_at_widened_percentiles() -> None:
    true, predicted, _ = images()
    found = grouped_estimate(krcc, true, predicted, groups=np.arange(60), **OPTIONS)
    tail = stats.norm.cdf(np.sqrt(60 / 59) * stats.t.ppf(0.025, 59))
    peer = stats.bootstrap(
        (true, predicted), lambda a, b: stats.kendalltau(a, b).statistic, n_resamples=2000, paired=True,
        vectorized=False, method="percentile",
        confidence_level=1 - 2 * tail, rng=1,
    ).confidence_interval  # fmt: skip
    assert found.value == pytest.approx(stats.kendalltau(true, predicted).statistic) and found.rows == 60
    np.testing.assert_allclose(found[1:3], peer, atol=0.03)
    assert found == grouped_estimate(krcc, true, predicted, groups=np.arange(60), **OPTIONS)


def test_copies_of_an_image_in_its_group_do_not_narrow_the_interval() -> None:
    true, predicted, _ = images()
    four = {"groups": np.tile(np.arange(60), 4)} | OPTIONS
    once = grouped_estimate(mae, true, predicted, groups=np.arange(60), **OPTIONS)
    copies = grouped_estimate(mae, np.tile(true, 4), np.tile(predicted, 4), **four)
    assert copies.rows == 240
    np.testing.assert_allclose(copies[:3], once[:3])


def test_all_resamples_of_two_groups_by_hand() -> None:
    values, groups = np.array([1.0, 2.0, 3.0, 10.0]), np.array(["a", "a", "a", "b"])
    found = grouped_estimate(mean, values, groups=groups, **OPTIONS)  # means of aa, ab, ba, bb: 2, 4, 4, 10
    np.testing.assert_allclose(found, (4, 2, 10, 4))


def test_without_groups_to_resample_there_is_no_interval() -> None:
    one = grouped_estimate(mae, np.zeros(3), np.ones(3), groups=np.zeros(3), **OPTIONS)
    assert one.value == 1 and np.isnan(one[1:3]).all()
    none = grouped_estimate(mae, np.array([]), np.array([]), groups=np.array([]), **OPTIONS)
    assert np.isnan(none[:3]).all() and none.rows == 0
    with pytest.raises(DataError):
        grouped_estimate(mae, np.zeros(3), np.ones(3), groups=np.zeros(2), **OPTIONS)


def test_resamples_without_a_figure_are_left_out() -> None:
    true = np.array([0.0, 0, 0, 1])  # a third of the resamples is constant
    found = grouped_estimate(krcc, true, true, groups=np.arange(4), **OPTIONS)
    np.testing.assert_allclose(found[:3], (1, 1, 1))
    constant = grouped_estimate(krcc, true, np.zeros(4), groups=np.arange(4), **OPTIONS)
    assert np.isnan(constant[:3]).all()


def test_expanded_percentiles() -> None:
    spread = np.append(np.linspace(0, 1, 10_001), np.nan)
    tail = stats.norm.cdf(stats.t.ppf(0.025, 15) * np.sqrt(16 / 15))
    np.testing.assert_allclose(expanded_percentiles(spread, 16, 0.95), (tail, 1 - tail), atol=1e-3)
    np.testing.assert_allclose(expanded_percentiles(spread, 10**6, 0.9), (0.05, 0.95), atol=1e-3)
    assert np.isnan(expanded_percentiles(spread, 1, 0.95)).all()
    assert np.isnan(expanded_percentiles(np.array([np.nan]), 5, 0.95)).all()


def test_a_paired_difference_says_more_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    true, hard = rng.normal(size=120), rng.normal(0, 1, 120)
    before, after = true + hard + rng.normal(0, 0.2, 120), true + 0.8 * hard + rng.normal(0, 0.2, 120)
    found = paired_difference(mae, true, before, after, groups=groups, **OPTIONS)
    assert found.value == pytest.approx(np.abs(true - after).mean() - np.abs(true - before).mean())
    apart = [grouped_estimate(mae, true, model, groups=groups, **OPTIONS) for model in (before, after)]
    assert apart[1].high > apart[0].low and change(found) == "lowered"  # separate intervals overlap
    differences = np.abs(true - after) - np.abs(true - before)
    means = grouped_estimate(mean, differences, groups=groups, **OPTIONS)
    np.testing.assert_allclose(found[:3], means[:3])
    back = paired_difference(mae, true, after, before, groups=groups, **OPTIONS)
    assert change(back) == "raised"
    same = paired_difference(mae, true, before, before, groups=groups, **OPTIONS)
    assert same[:3] == (0, 0, 0) and change(same) == "no difference shown"


def test_a_difference_of_nothing_is_seldom_shown() -> None:
    shown = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        true = rng.normal(size=80)
        before, after = true + rng.normal(size=80), true + rng.normal(size=80)
        options = OPTIONS | {"samples": 200}
        found = paired_difference(mae, true, before, after, groups=np.arange(80), **options)
        shown += change(found) != "no difference shown"
    assert shown <= 12  # 5 are expected


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.2, "raised"), (-0.2, -0.1, "lowered"), (-0.1, 0.1, "no difference shown"), (0, 0.1, "no difference shown"),
     (-0.1, 0, "no difference shown"), (np.nan, np.nan, "no difference shown")],
)  # fmt: skip
def test_the_word_for_a_difference(low: float, high: float, word: str) -> None:
    assert change(Estimate(0.0, low, high, 9)) == word


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (20, 20), (7, 20), (1, 1)])
def test_wilson_by_its_formula(hits: int, n: int) -> None:
    z, rate = stats.norm.ppf(0.975), hits / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    found = wilson_estimate(np.arange(n) < hits, confidence=0.95)
    assert found.value == rate and found.rows == n and found.high > found.low
    np.testing.assert_allclose(found[1:3], (middle - half, middle + half), atol=1e-12)
    assert wilson_estimate((np.arange(n) < hits).astype(float), confidence=0.95) == found


def test_wilson_of_nothing_and_of_other_values() -> None:
    assert np.isnan(wilson_estimate(np.array([]), confidence=0.95)[:3]).all()
    for wrong in (np.array([0.5]), np.array([1.0, np.nan])):
        with pytest.raises(DataError):
            wilson_estimate(wrong, confidence=0.95)


def test_a_rate_counts_groups() -> None:
    values, groups = np.repeat([1.0, 0.0, 1.0, 1.0], 50), np.repeat(np.arange(4), 50)
    alone = rate_estimate(values, groups=np.arange(200), **OPTIONS)
    assert alone == wilson_estimate(values, confidence=0.95)
    grouped = rate_estimate(values, groups=groups, **OPTIONS)
    assert grouped == grouped_estimate(mean, values, groups=groups, **OPTIONS)
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    constant = rate_estimate(np.ones(200), groups=groups, **OPTIONS)
    assert constant == wilson_estimate(np.ones(4), confidence=0.95)._replace(rows=200)


@given(st.integers(1, 20), st.integers(1, 9))
@settings(deadline=None)
def test_effective_groups_of_one_size_are_all_groups(groups: int, images: int) -> None:
    assert effective_groups(np.repeat(np.arange(groups), images)) == pytest.approx(groups)


def test_effective_groups_are_fewer_when_one_is_large() -> None:
    assert effective_groups(np.repeat(["a", "b"], [3, 1])) == 16 / 10
    assert 1 < effective_groups(np.repeat(np.arange(100), [10_000] + [1] * 99)) < 1.1
    assert effective_groups(np.array([])) == 0


def test_a_large_group_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    sizes = [100] * 5 + [5] * 35
    groups = np.repeat(np.arange(40), sizes)
    values = rng.normal(size=40)[groups]
    found = grouped_estimate(mean, values, groups=groups, **OPTIONS)
    times = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=20_000)
    firsts = np.array([values[groups == group][0] for group in range(40)])
    spread = (times @ (np.array(sizes) * firsts)) / (times @ np.array(sizes))
    np.testing.assert_allclose(found[1:3], expanded_percentiles(spread, effective_groups(groups), 0.95), atol=0.08)
    assert found.high - found.low > 1.1 * np.subtract(*expanded_percentiles(spread, 40, 0.95)[::-1])


def test_few_groups_are_reported() -> None:
    ten = np.repeat(np.arange(10), 5)
    assert not intervals_too_narrow(ten)
    assert intervals_too_narrow(ten[5:]) and intervals_too_narrow(np.array([]))
    assert intervals_too_narrow(np.repeat(np.arange(40), [100] * 5 + [5] * 35))


def test_coverage_of_groups_beside_that_of_images() -> None:
    """16 reference images with 125 distorted ones each: the bootstrap over images is far too sure."""
    images, groups, widened = coverage(16, 125, 0.3, repeats=60, samples=100, seed=1)
    assert (images < 0.7).all() and (groups > 0.8).all()
    assert (widened >= groups).all() and (widened > 0.88).all()
