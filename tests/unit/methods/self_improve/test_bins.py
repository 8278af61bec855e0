"""Ten quantile bins: a score on an edge belongs to the bin below, on real, tied and made-up scores."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.bins import assign_bins, bins_table, fit_bins
from pipeline_lib.methods.self_improve.tables import BINS
from pipeline_lib.tables.table import conform


def sizes(scores: np.ndarray, edges: np.ndarray) -> list[int]:
    return np.bincount(assign_bins(scores, edges), minlength=10).tolist()


def aadb_scores(folder: Path) -> np.ndarray:
    lines = (folder / "imgListTrainRegression_score.txt").read_text().splitlines()
    return np.array([float(line.split()[1]) for line in lines if line.strip()])


def ava_scores(folder: Path) -> np.ndarray:
    votes = np.loadtxt(folder / "ava_labels_25551.txt", usecols=range(2, 12))
    return votes @ np.arange(1, 11) / votes.sum(axis=1)


def test_aadb_edges_are_the_known_ones_and_ties_go_to_the_bin_below(label_files: Path) -> None:
    scores = aadb_scores(label_files)
    bins = fit_bins(scores)
    assert len(scores) == 8458
    np.testing.assert_allclose(bins.edges, [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.75], atol=1e-9)
    assert np.isin(bins.edges, scores).all()
    expected = [int(((scores > low) & (scores <= high)).sum()) for low, high in zip(
        [-np.inf, *bins.edges], [*bins.edges, np.inf], strict=True
    )]  # fmt: skip
    assert sizes(scores, bins.edges) == expected and sum(expected) == 8458
    assert expected == [1332, 608, 730, 813, 955, 845, 844, 706, 976, 649]
    assert assign_bins(bins.edges, bins.edges).tolist() == list(range(9))


def test_ava_edges_are_the_known_ones_and_the_bins_are_even(label_files: Path) -> None:
    scores = ava_scores(label_files)
    bins = fit_bins(scores)
    known = [4.449, 4.781, 5.008, 5.208, 5.381, 5.561, 5.752, 5.982, 6.304]
    assert len(scores) == 25_551
    np.testing.assert_allclose(bins.edges, known, atol=6e-4)
    assert all(abs(size - 2555.1) < 25 for size in sizes(scores, bins.edges))
    assert np.all(np.diff(bins.mean_scores) > 0)


@pytest.mark.parametrize(
    ("scores", "edges", "bins"),
    [
        (range(10), list(range(9)), list(range(10))),
        (range(20), list(range(1, 19, 2)), [k // 2 for k in range(20)]),
        # half the scores are 5: four edges fall on it, and all of them go to the lowest of those bins
        ([1, 2, 3, 4, 5, 5, 5, 5, 5, 6], [1, 2, 3, 4, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 4, 4, 4, 4, 9]),
        ([0] * 5 + [1] * 5, [0] * 5 + [1] * 4, [0] * 5 + [5] * 5),
        # 0.1 + 0.2 is not 0.3: an edge is a score that occurs, so no rounding decides a tie
        ([0.1 + 0.2] * 9 + [1.0], [0.1 + 0.2] * 9, [0] * 9 + [9]),
    ],
)
def test_ties_have_exact_bins(scores: list[float], edges: list[float], bins: list[int]) -> None:
    array = np.array(scores, dtype=np.float64)
    fitted = fit_bins(array)
    assert fitted.edges.tolist() == [float(edge) for edge in edges]
    assert assign_bins(array, fitted.edges).tolist() == bins
    assert assign_bins(array, fitted.edges).dtype == np.int8


def test_an_empty_bin_takes_its_upper_edge_as_mean() -> None:
    bins = fit_bins(np.array([1, 2, 3, 4, 5, 5, 5, 5, 5, 6], dtype=np.float64))
    assert bins.mean_scores.tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 5, 6]


def test_scores_outside_the_training_range_fall_into_the_outer_bins() -> None:
    edges = fit_bins(np.arange(10.0)).edges
    assert assign_bins(np.array([-100.0, 100.0]), edges).tolist() == [0, 9]


def test_too_few_or_constant_scores_are_refused() -> None:
    with pytest.raises(DataError, match=r"9 training images.*10 bins"):
        fit_bins(np.arange(9.0))
    with pytest.raises(DataError, match=r"all 10 training scores are 2\.5"):
        fit_bins(np.full(10, 2.5))


def test_the_table_says_what_is_in_each_bin() -> None:
    scores = np.array([1, 2, 3, 4, 5, 5, 5, 5, 5, 6], dtype=np.float64)
    bins = fit_bins(scores)
    table = conform(bins_table(bins, assign_bins(scores, bins.edges)), BINS.schema).to_pylist()
    assert [row["train_images"] for row in table] == [1, 1, 1, 1, 5, 0, 0, 0, 0, 1]
    assert table[0]["lower"] == -np.inf and table[9]["upper"] == np.inf
    assert all(below["upper"] == above["lower"] for below, above in itertools.pairwise(table))


finite = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=10, max_size=200, unique=True))
def test_distinct_scores_fill_every_bin_evenly(values: list[float]) -> None:
    scores = np.array(values)
    filled = sizes(scores, fit_bins(scores).edges)
    assert min(filled) >= 1 and max(filled) - min(filled) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=10, max_size=60), st.lists(finite, min_size=1, max_size=30))
def test_a_higher_score_never_gets_a_lower_bin(train: list[float], others: list[float]) -> None:
    scores = np.array(train)
    if np.ptp(scores) == 0:
        return
    edges = fit_bins(scores).edges
    bins = assign_bins(np.sort(np.array(others + train)), edges)
    assert np.all(np.diff(bins.astype(int)) >= 0) and bins.min() >= 0 and bins.max() <= 9
    assert np.all(np.diff(fit_bins(scores).mean_scores) >= 0)
