"""Chance of Cons by shuffling, the corrected figure, and the variety of texts."""

import itertools

import numpy as np
import pytest

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.round_trip import grade
from pipeline_lib.metrics.chance import chance_corrected, chance_level, text_variety
from pipeline_lib.metrics.figures import once


def answers(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    stated = rng.integers(10, size=n).astype(float)
    return stated, np.clip(stated + rng.normal(0, 2, n), 0, 9)


def test_chance_is_the_mean_over_all_shuffles() -> None:
    stated, recovered = answers(6)
    every = [grade(stated, recovered[list(order)]).mean() for order in itertools.permutations(range(6))]
    assert chance_level(grade, stated, recovered, once(6)) == pytest.approx(np.mean(every))


def test_weights_are_repetitions() -> None:
    stated, recovered = answers(30)
    weights = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), size=5).astype(float)
    rows = [np.repeat(np.arange(30), row.astype(int)) for row in weights]
    expected = [chance_level(grade, stated[at], recovered[at], once(30))[0] for at in rows]
    np.testing.assert_allclose(chance_level(grade, stated, recovered, weights), expected)


def test_equal_texts_count_as_often_as_they_occur() -> None:
    stated, recovered = np.array([0.0, 0.0, 9.0]), np.array([0.0, 0.0, 9.0])
    assert chance_level(grade, stated, recovered, once(3)) == pytest.approx(4 * (2 / 3 * 2 / 3 + 1 / 3 * 1 / 3))


def test_the_corrected_figure() -> None:
    plain, chance = np.array([3.0, 2.0, 4.0, 1.0, 4.0]), np.array([2.0, 2.0, 1.0, 2.0, 4.0])
    np.testing.assert_allclose(chance_corrected(plain, chance), [0.5, 0, 1, -0.5, np.nan])


def test_no_texts_and_unequal_lengths() -> None:
    assert np.isnan(chance_level(grade, np.array([]), np.array([]), once(0))).all()
    for wrong in ((np.zeros(3), np.zeros(2), once(3)), (np.zeros(3), np.zeros(3), once(2))):
        with pytest.raises(DataError):
            chance_level(grade, *wrong)


def test_distinct_texts_and_their_words() -> None:
    assert text_variety(["a sharp image", "a  sharp\nimage ", "dull", "dull "]) == (4, 2, 2.0)
    none = text_variety([])
    assert none[:2] == (0, 0) and np.isnan(none.mean_words)
