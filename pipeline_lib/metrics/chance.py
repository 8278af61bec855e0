"""Cons against chance: what a judge that recovers the score from a text would give to texts of other images."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.errors import DataError

Array = NDArray[np.float64]

BEST_GRADE = 4.0


class TextVariety(NamedTuple):
    """How much the texts of a model differ."""

    texts: int
    distinct: int  # white space is not compared
    mean_words: float  # words are separated by white space; NaN for no texts


def chance_level(
    grade: Callable[[Array, Array], NDArray[np.number]], stated: Array, recovered: Array, weights: Array
) -> Array:
    """The expected mean grade when the texts are shuffled over the images, shape (s,). NaN for no texts.

    `stated` and `recovered` have shape (n,): the score that an answer states, and the one that the judge recovers from
    its text. `grade` compares them element by element. `weights` of shape (s, n) say how often each image is in each of
    s resamples (`pipeline_lib.metrics.figures`). Every image gets every text with the same probability, so the
    expectation is the mean grade of all pairs and needs no seeds. Raises `DataError` for unequal lengths.
    """
    if stated.shape != recovered.shape or weights.shape[1:] != stated.shape:
        raise DataError(
            f"expected a recovered score and a weight for each stated score, found {stated.shape}, {recovered.shape}"
            f" and {weights.shape}"
        )
    digits, at = np.unique(stated, return_inverse=True)
    grades = np.array([grade(np.full(len(recovered), digit), recovered) for digit in digits], dtype=np.float64)
    of_digits = weights @ (at[:, None] == np.arange(len(digits)))  # (s, digits): how often each digit is stated
    with np.errstate(invalid="ignore"):
        total = (of_digits * (weights @ grades.reshape(len(digits), len(recovered)).T)).sum(axis=1)
        return np.asarray(total / weights.sum(axis=1) ** 2)


def chance_corrected(plain: Array, chance: Array) -> Array:
    """(plain - chance) / (4 - chance): 0 is chance, 1 the best grade everywhere. NaN when chance is the best grade."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < BEST_GRADE, (plain - chance) / (BEST_GRADE - chance), np.nan)


def text_variety(texts: Sequence[str]) -> TextVariety:
    """The number of distinct texts and their mean length in words. A model with few texts can have a high Cons."""
    words = [len(text.split()) for text in texts]
    mean = float(np.mean(words)) if words else float("nan")
    return TextVariety(len(texts), len({" ".join(text.split()) for text in texts}), mean)
