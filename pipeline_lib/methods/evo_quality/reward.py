"""The reward of a rating: fidelity to the votes under Thurstone's model (arXiv 2509.25787), or the ablation's.

A unit of GRPO is a voted pair of images; the reward function gets all ratings of both.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from pipeline_lib.methods.evo_quality.answers import HIGHEST, LOWEST, read_rating
from pipeline_lib.train.rewards import Unit, UnitRewards


def fidelity(unit: Unit, answers: list[list[str]], *, gamma: float, format_weight: float) -> UnitRewards:
    """Fidelity of each rating of either image to the pair's `preference` (the label for the first image, 0..1).

    p_k(i, j) = Phi((q_k(i) - mean q(j)) / sqrt(var q(i) + var q(j) + gamma)) and
    r_k(i) = sqrt(p* p_k) + sqrt((1 - p*)(1 - p_k)), with unbiased variances over the ratings that can be read. Other
    answers are left out of means and variances, and earn nothing. Where an image has no rating that can be read, the
    pair earns no fidelity, and a single one has no variance of its own.
    """
    ratings = [[read_rating(text) for text in of_image] for of_image in answers]
    read = [np.array([rating for rating in of_image if rating is not None]) for of_image in ratings]
    scale = math.sqrt(sum(_variance(of_image) for of_image in read) + gamma)
    preference = float(unit["preference"])
    rewards = []
    for side, wanted in enumerate((preference, 1 - preference)):
        other = read[1 - side]
        mean = float(other.mean()) if len(other) else None
        rewards.append([_fidelity(rating, mean, scale, wanted) for rating in ratings[side]])
    return _with_format(rewards, ratings, format_weight)


def own_mean(unit: Unit, answers: list[list[str]], *, format_weight: float) -> UnitRewards:
    """The paper's ablation: the nearer a rating is to the mean of the model's own ratings, `targets`, the better.

    1 less the distance as a share of the scale; 0 for an image without a target.
    """
    ratings = [[read_rating(text) for text in of_image] for of_image in answers]
    rewards = [
        [_closeness(rating, target) for rating in of_image]
        for of_image, target in zip(ratings, unit["targets"], strict=True)
    ]
    return _with_format(rewards, ratings, format_weight)


def _with_format(
    rewards: list[list[float]], ratings: Sequence[Sequence[float | None]], format_weight: float
) -> UnitRewards:
    parsed = [[rating is not None for rating in of_image] for of_image in ratings]
    of_format = [[format_weight if is_read else 0.0 for is_read in of_image] for of_image in parsed]
    return UnitRewards({"ranking": rewards, "format": of_format}, parsed)


def _fidelity(rating: float | None, other: float | None, scale: float, wanted: float) -> float:
    if rating is None or other is None:
        return 0.0
    p = float(norm.cdf((rating - other) / scale))
    return math.sqrt(wanted * p) + math.sqrt((1 - wanted) * (1 - p))


def _closeness(rating: float | None, target: float | None) -> float:
    if rating is None or target is None:
        return 0.0
    return 1 - abs(rating - target) / (HIGHEST - LOWEST)


def _variance(ratings: np.ndarray) -> float:
    return float(ratings.var(ddof=1)) if len(ratings) > 1 else 0.0
