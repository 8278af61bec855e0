"""Cons against chance: what a judge that recovers the score from a text would give to texts of other images."""

from collections.abc import Callable, Hashable, Sequence
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
    grade: Callable[[Array, Array], NDArray[np.number]],
    stated: Array,
    recovered: Array,
    *,
    within: Sequence[Hashable] | NDArray[np.generic] | None = None,
) -> float:
    """The expected mean grade when the texts are shuffled over the images. NaN for no texts.

    `stated` and `recovered` have shape (n,): the score that an answer states, and the one that the judge recovers from
    its text. `grade` compares them element by element. Every image gets every text with the same probability, so the
    expectation is the mean grade of all pairs and needs no seeds. `within`, shape (n,), shuffles only among images
    with the same value there. Within the stated digit nothing can change: a judge that sees the text alone does not
    notice texts of other images. Within the true bin, the difference from the plain figure says what the stated digit
    adds. Raises `DataError` for unequal lengths.
    """
    if stated.shape != recovered.shape or (within is not None and len(within) != len(stated)):
        raise DataError(f"expected a recovered score for each stated one, found {stated.shape} and {recovered.shape}")
    if not len(stated):
        return float("nan")
    labels = np.zeros(len(stated), dtype=np.int64) if within is None else _numbered(within)
    total = 0.0
    for label in range(labels.max() + 1):
        digits, counts = np.unique(stated[labels == label], return_counts=True)
        texts, times = np.unique(recovered[labels == label], return_counts=True)
        for digit, count in zip(digits, counts, strict=True):
            total += count * float((grade(np.full(len(texts), digit), texts) * times).sum()) / counts.sum()
    return total / len(stated)


def chance_corrected(plain: float, chance: float) -> float:
    """(plain - chance) / (4 - chance): 0 is chance, 1 the best grade everywhere. NaN when chance is the best grade."""
    return (plain - chance) / (BEST_GRADE - chance) if chance < BEST_GRADE else float("nan")


def text_variety(texts: Sequence[str]) -> TextVariety:
    """The number of distinct texts and their mean length in words. A model with few texts can have a high Cons."""
    words = [len(text.split()) for text in texts]
    mean = float(np.mean(words)) if words else float("nan")
    return TextVariety(len(texts), len({" ".join(text.split()) for text in texts}), mean)


def _numbered(values: Sequence[Hashable] | NDArray[np.generic]) -> NDArray[np.int64]:
    at: dict[Hashable, int] = {}
    return np.array([at.setdefault(value, len(at)) for value in values], dtype=np.int64)
