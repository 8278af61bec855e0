"""The reward of a rating: fidelity to the votes under Thurstone's model (arXiv 2509.25787), or the ablation's.

A unit of GRPO is an image with those that it is paired with; the reward function gets all their ratings.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from pipeline_lib.methods.evo_quality.answers import HIGHEST, LOWEST, read_rating
from pipeline_lib.train.rewards import Unit, UnitRewards


def fidelity(
    unit: Unit, answers: list[list[str]], *, gamma: float, format_weight: float, partners: int = 1
) -> UnitRewards:
    """Fidelity of each rating of an image to the labels of its pairs, the mean over them.

    A unit is an image i, the first one, with its partners j (one, or up to `partners`): `preference` is the label for i
    beside the one partner, `preferences` are those beside each of several.
    p_k(i, j) = Phi((q_k(i) - mean q(j)) / sqrt(var q(i) + var q(j) + gamma)) and
    r_k(i) = mean over j of sqrt(p* p_k) + sqrt((1 - p*)(1 - p_k)), with unbiased variances over the ratings that can be
    read. A partner is rewarded for its pair with i alone. Other answers are left out of means and variances, and earn
    nothing. A pair of which an image has no rating that can be read is in no mean, and a single rating has no variance.
    """
    ratings = [[read_rating(text) for text in of_image] for of_image in answers]
    read = [np.array([rating for rating in of_image if rating is not None]) for of_image in ratings]
    preferences = [float(label) for label in unit.get("preferences") or [unit["preference"]]]
    assert len(preferences) == len(answers) - 1 <= partners
    means = [float(of_image.mean()) if len(of_image) else None for of_image in read]
    scales = [math.sqrt(_variance(read[0]) + _variance(of_image) + gamma) for of_image in read[1:]]
    pairs = list(zip(means[1:], scales, preferences, strict=True))
    known = [pair for pair in pairs if pair[0] is not None]
    own = [
        [_fidelity(rating, mean, scale, label) for mean, scale, label in known] for rating in ratings[0]
    ]  # of each rating, beside each partner
    rewards = [[sum(of_rating) / len(known) if known else 0.0 for of_rating in own]]
    for of_partner, (_, scale, label) in zip(ratings[1:], pairs, strict=True):
        rewards.append([_fidelity(rating, means[0], scale, 1 - label) for rating in of_partner])
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
