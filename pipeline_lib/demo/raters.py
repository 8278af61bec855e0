"""Simulated raters: each sees the same faults, with habits and a mood of their own."""

import math

import numpy as np

from pipeline_lib.demo.distortions import ATTRIBUTES, Severity

# Points of a ten-point scale that the fault costs at its worst.
COST_POINTS = {
    "clutter": 3.0,
    "fading": 2.8,
    "flatness": 2.8,
    "exposure": 3.4,
    "blur": 3.8,
    "blockiness": 3.2,
    "noise": 3.2,
}
RATERS = 7
_BEST_POINTS = 9.2
_WORST_POINTS = 1.0
_TASTE_POINTS = 0.3
_MOOD_POINTS = 0.8


def quality_points(severity: Severity) -> float:
    """What an ideal rater would say, before habits and moods; 1 to 9.2 points."""
    lost = sum(COST_POINTS[name] * abs(value) for name, value in zip(ATTRIBUTES, severity, strict=True))
    # Each further fault costs less: nobody minds noise much on an image that is blurred beyond recognition.
    return _WORST_POINTS + (_BEST_POINTS - _WORST_POINTS) * math.exp(-lost / (_BEST_POINTS - _WORST_POINTS))


def rater_habits(seed: int) -> tuple[float, ...]:
    """Each rater's constant leniency in points, the same for the whole data set."""
    return tuple(float(value) for value in np.random.default_rng([seed, 77]).normal(0, 0.5, RATERS))


def mean_score(severity: Severity, habits: tuple[float, ...], rng: np.random.Generator) -> float:
    """The mean opinion of all raters on one image, 1 (worst) to 10 (best), three decimals."""
    shared = quality_points(severity) + float(rng.normal(0, _TASTE_POINTS))
    votes = shared + np.array(habits) + rng.normal(0, _MOOD_POINTS, len(habits))
    return round(float(np.clip(votes, 1, 10).mean()), 3)
