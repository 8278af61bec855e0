"""SRCC, PLCC, KRCC and errors of many resamples at once, against scipy on the repeated rows."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline_lib.metrics import figures
from pipeline_lib.metrics.figures import krcc, mae, mean, once, ordered_share, plcc, rmse, srcc
from pipeline_lib.metrics.scores import fit_reference_values

PEERS = {
    srcc: lambda a, b: stats.spearmanr(a, b).statistic,
    plcc: lambda a, b: stats.pearsonr(a, b).statistic,
    krcc: lambda a, b: stats.kendalltau(a, b).statistic,
    rmse: lambda a, b: np.sqrt(np.mean((a - b) ** 2)),
    mae: lambda a, b: np.mean(np.abs(a - b)),
}


def sample(n: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.normal(5, 1, n)
    predicted = 0.5 * true + rng.normal(0, 0.7, n)
    return (np.round(true), np.round(predicted)) if ties else (true, predicted)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("figure", PEERS, ids=lambda figure: figure.__name__)
def test_weights_are_repetitions(figure, ties: bool) -> None:
    true, predicted = sample(40, ties=ties)
    weights = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=20).astype(float)
    found = figure(true, predicted, np.concatenate([once(40), weights]))
    rows = [np.arange(40), *(np.repeat(np.arange(40), row.astype(int)) for row in weights)]
    np.testing.assert_allclose(found, [PEERS[figure](true[at], predicted[at]) for at in rows], atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20))
@settings(deadline=None)
def test_krcc_is_tau_b_by_counting_pairs(rows: list[tuple[int, int]]) -> None:
    pairs = list(itertools.combinations(rows, 2))
    concordant = sum(np.sign(a - c) * np.sign(b - d) for (a, b), (c, d) in pairs)
    untied = [sum(a[side] != b[side] for a, b in pairs) for side in (0, 1)]
    expected = concordant / np.sqrt(untied[0] * untied[1]) if all(untied) else np.nan
    x, y = np.array(rows, dtype=float).T
    np.testing.assert_allclose(krcc(x, y, once(len(x))), [expected], atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20))
@settings(deadline=None)
def test_ordered_share_by_counting_pairs(rows: list[tuple[int, int]]) -> None:
    pairs = [(p, q) for p, q in itertools.combinations(rows, 2) if p[0] != q[0]]
    right = sum(0.5 if p[1] == q[1] else (p[0] < q[0]) == (p[1] < q[1]) for p, q in pairs)
    x, y = np.array(rows, dtype=float).T
    np.testing.assert_allclose(ordered_share(x, y, once(len(x))), [right / len(pairs) if pairs else np.nan], atol=1e-12)


def test_krcc_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    true, predicted = sample(50, ties=True)
    whole = krcc(true, predicted, once(50))
    monkeypatch.setattr(figures, "_BLOCK_PAIRS", 7 * 50)
    np.testing.assert_allclose(krcc(true, predicted, once(50)), whole, atol=1e-15)


@pytest.mark.parametrize("value", [0.0, 0.1, 5.377, 1 / 3])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 50, 101])
def test_constant_predictions_have_no_correlation_and_raise_no_warning(n: int, value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (plcc, srcc, krcc):
            assert np.isnan(figure(sample(n)[0], np.full(n, value), once(n))).all()
        assert np.isfinite(rmse(sample(n)[0], np.full(n, value), once(n))).all()


def test_nothing_has_no_figures_and_raises_no_warning() -> None:
    none = np.array([])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan([figure(none, none, once(0)) for figure in PEERS]).all()
        assert np.isnan(mean(none, once(0))).all()


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
