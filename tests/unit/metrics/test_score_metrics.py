"""PLCC, SRCC, RMSE, their intervals, and the reference values."""

import warnings

import numpy as np
import pytest
from scipy import stats

from pipeline_lib.metrics.scores import fit_reference_values, mean_estimate, score_metrics

OPTIONS = {"samples": 300, "confidence": 0.95, "seed": 0}


def sample(n: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.normal(5, 1, n)
    predicted = 0.5 * true + rng.normal(0, 0.7, n)
    return (np.round(true), np.round(predicted)) if ties else (true, predicted)


@pytest.mark.parametrize("ties", [False, True])
def test_figures_are_those_of_scipy(ties: bool) -> None:
    true, predicted = sample(80, ties=ties)
    found = score_metrics(true, predicted, **OPTIONS)
    assert found["plcc"].value == pytest.approx(stats.pearsonr(true, predicted).statistic, abs=1e-12)
    assert found["srcc"].value == pytest.approx(stats.spearmanr(true, predicted).statistic, abs=1e-12)
    assert found["rmse"].value == pytest.approx(np.sqrt(np.mean((true - predicted) ** 2)))
    assert all(figure.rows == 80 for figure in found.values())


def test_bootstrap_intervals_are_percentiles_of_resamples() -> None:
    true, predicted = sample(40, ties=True)
    drawn = np.random.default_rng(0).integers(40, size=(300, 40))
    by_hand = [stats.spearmanr(true[rows], predicted[rows]).statistic for rows in drawn]
    found = score_metrics(true, predicted, **OPTIONS)["srcc"]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])))


def test_intervals_cover_the_true_value_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(150):
        true = rng.normal(size=60)
        predicted = 0.6 * true + 0.8 * rng.normal(size=60)  # correlation .6
        plcc = score_metrics(true, predicted, samples=200, confidence=0.9, seed=0)["plcc"]
        covered += plcc.low <= 0.6 <= plcc.high
    assert 0.8 < covered / 150 < 0.97


def test_intervals_narrow_with_more_images_and_less_confidence() -> None:
    def width(n: int, confidence: float) -> float:
        plcc = score_metrics(*sample(n), samples=300, confidence=confidence, seed=0)["plcc"]
        assert plcc.low < plcc.value < plcc.high
        return plcc.high - plcc.low

    assert width(40, 0.95) > 2 * width(640, 0.95)
    assert width(40, 0.5) < width(40, 0.95)


@pytest.mark.parametrize("value", [0.0, 0.1, 5.377, 1 / 3])
@pytest.mark.parametrize("n", [2, 3, 7, 50, 101])
def test_constant_predictions_have_no_correlation_and_raise_no_warning(n: int, value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_metrics(sample(n)[0], np.full(n, value), **OPTIONS)
    for name in ("plcc", "srcc"):
        assert np.isnan([found[name].value, found[name].low, found[name].high]).all()
    assert np.isfinite(found["rmse"].value)


def test_the_mean_of_rates_and_of_nothing() -> None:
    found = mean_estimate(np.array([1.0, 0.0, 1.0, 1.0]), **OPTIONS)
    assert found.value == 0.75 and found.low < 0.75 < found.high <= 1 and found.rows == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = mean_estimate(np.array([]), **OPTIONS)
    assert none.rows == 0 and np.isnan(none.value)


def test_reference_values_are_recovered() -> None:
    rng = np.random.default_rng(0)
    values = np.array([1.0, 2, 2.5, 3, 4, 5, 5.5, 6, 8, 9])
    p = rng.dirichlet(np.ones(10), 200)
    np.testing.assert_allclose(fit_reference_values(p, p @ values), values, atol=1e-8)
    noisy = fit_reference_values(p, p @ values + rng.normal(0, 0.1, 200))
    best = np.linalg.lstsq(p, p @ values, rcond=None)[0]
    np.testing.assert_allclose(noisy, best, atol=0.5)


def test_a_score_that_gets_no_probability_has_the_mean_as_reference_value() -> None:
    rng = np.random.default_rng(0)
    values = np.arange(10.0)
    p = np.insert(rng.dirichlet(np.ones(9), 100), 4, 0.0, axis=1)
    true = p @ values
    found = fit_reference_values(p, true)
    np.testing.assert_allclose(p @ found, true, atol=1e-8)
    assert found[4] == pytest.approx(true.mean())
    np.testing.assert_allclose(np.delete(found, 4), np.delete(values, 4), atol=1e-8)
