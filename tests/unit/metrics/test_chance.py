"""Chance of Cons by shuffling, the corrected figure, and the variety of texts."""

import itertools

import numpy as np
import pytest

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.round_trip import grade
from pipeline_lib.metrics.chance import chance_corrected, chance_level, text_variety


def answers(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    stated = rng.integers(10, size=n).astype(float)
    return stated, np.clip(stated + rng.normal(0, 2, n), 0, 9)


def test_chance_is_the_mean_over_all_shuffles() -> None:
    stated, recovered = answers(6)
    every = [grade(stated, recovered[list(order)]).mean() for order in itertools.permutations(range(6))]
    assert chance_level(grade, stated, recovered) == pytest.approx(np.mean(every))


def test_chance_within_a_label_is_the_mean_over_shuffles_within_it() -> None:
    stated, recovered = answers(300)
    within = [f"bin {min(int(s) // 3, 2)}" for s in stated]
    rng = np.random.default_rng(1)
    means = []
    for _ in range(400):
        order = np.arange(300)
        for label in set(within):
            at = np.flatnonzero(np.array(within) == label)
            order[at] = rng.permutation(at)
        means.append(grade(stated, recovered[order]).mean())
    found = chance_level(grade, stated, recovered, within=within)
    assert found == pytest.approx(np.mean(means), abs=5 * np.std(means) / 20)
    assert chance_level(grade, stated, recovered) + 0.2 < found < grade(stated, recovered).mean()


def test_shuffling_within_the_stated_digit_changes_nothing() -> None:
    stated, recovered = answers(200)
    assert chance_level(grade, stated, recovered, within=stated) == pytest.approx(grade(stated, recovered).mean())


def test_equal_texts_count_as_often_as_they_occur() -> None:
    stated, recovered = np.array([0.0, 0.0, 9.0]), np.array([0.0, 0.0, 9.0])
    assert chance_level(grade, stated, recovered) == pytest.approx(4 * (2 / 3 * 2 / 3 + 1 / 3 * 1 / 3))


def test_the_corrected_figure() -> None:
    assert chance_corrected(3.0, 2.0) == 0.5
    assert chance_corrected(2.0, 2.0) == 0 and chance_corrected(4.0, 1.0) == 1 and chance_corrected(1.0, 2.0) == -0.5
    assert np.isnan(chance_corrected(4.0, 4.0))


def test_no_texts_and_unequal_lengths() -> None:
    assert np.isnan(chance_level(grade, np.array([]), np.array([])))
    with pytest.raises(DataError):
        chance_level(grade, np.zeros(3), np.zeros(2))
    with pytest.raises(DataError):
        chance_level(grade, np.zeros(3), np.zeros(3), within=[1, 2])


def test_distinct_texts_and_their_words() -> None:
    assert text_variety(["a sharp image", "a  sharp\nimage ", "dull", "dull "]) == (4, 2, 2.0)
    none = text_variety([])
    assert none[:2] == (0, 0) and np.isnan(none.mean_words)
