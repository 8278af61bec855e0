"""Rewards of sampled answers: a method's function over a whole unit, and the advantages that follow from them.

A unit is a row of a method's table: images that belong together, and the method's own columns. All answers about its
images are sampled in one process, and its reward function sees them together.
"""

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pipeline_lib.errors import ModelError
from pipeline_lib.train.job import Reward

Unit = dict[str, Any]
"""A row of a method's table."""

SMALL = 1e-4
"""TRL's: added to a standard deviation before it divides."""


class UnitRewards(NamedTuple):
    """The rewards of the N images of a unit with K answers each, and which answers could be read."""

    parts: dict[str, list[list[float]]]  # by the name of a part: N lists of K rewards; an answer's reward is their sum
    parsed: list[list[bool]]  # N lists of K


RewardFunction = Callable[[Unit, list[list[str]]], UnitRewards]
"""A unit and its answers, K texts for each of its images -> their rewards. It must not depend on anything else."""


def load_reward(reward: Reward) -> RewardFunction:
    """The function that a job names, with its settings; raises `ModelError` when there is none."""
    module, _, name = reward.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"reward function {reward.function} is not there ({error}); expected module:function"
        ) from error
    return partial(function, **reward.settings)


def total_rewards(rewards: UnitRewards, images: int, answers: int, where: str) -> Tensor:
    """(images, answers) sums of the parts in float64.

    Raises `ModelError` naming the unit `where` and the part that has another shape, or a reward that is no finite
    number: TRL leaves such answers out without a message.
    """
    shape = [answers] * images
    sizes = {name: [len(row) for row in values] for name, values in rewards.parts.items()}
    for name, found in {**sizes, "parsed": [len(row) for row in rewards.parsed]}.items():
        if found != shape:
            raise ModelError(f"{where}: {name} of the reward function has {found} values for its images, not {shape}")
    if not rewards.parts:
        raise ModelError(f"{where}: the reward function returned no part; expected at least one")
    for name, values in rewards.parts.items():
        if not all(math.isfinite(value) for row in values for value in row):
            raise ModelError(f"{where}: part {name} of the reward is not a finite number: {values}")
    return torch.tensor(list(rewards.parts.values()), dtype=torch.float64).sum(0)


def advantages(rewards: Tensor, scale: Literal["group", "none"]) -> Tensor:
    """(images, K) rewards -> advantages within each image: the distance from the mean, in standard deviations.

    As in TRL (deviation with K - 1 in the denominator, plus `SMALL`), but exactly 0 where all K rewards are equal.
    """
    apart = rewards - rewards.mean(1, keepdim=True)
    if scale == "group":
        apart = apart / (rewards.std(1, keepdim=True) + SMALL)
    return apart.masked_fill(without_variance(rewards)[:, None], 0.0)


def without_variance(rewards: Tensor) -> Tensor:
    """(images,) booleans: all answers have one reward, so they teach nothing."""
    return (rewards == rewards[:, :1]).all(1)
