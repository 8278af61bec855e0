"""The answers that a step of GRPO samples for some units, their rewards, and the figures of both.

Each image is encoded and read once, and its K answers are decoded together behind it. The noise of an answer follows
from the seed, the step, the image's place and the answer's number (decision 15). So a step that is computed again, in
any process, samples the same answers.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline_lib.config.base import Grpo
from pipeline_lib.errors import DataError
from pipeline_lib.train.prefix_rows import Row
from pipeline_lib.train.rewards import RewardFunction, Unit, UnitRewards, total_rewards, without_variance
from pipeline_lib.vlm.batches import images_of
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate import Generated, Question, Sampled, generate_answers
from pipeline_lib.vlm.generate.features import ImageFeatures
from pipeline_lib.vlm.load import Vlm

Figures = dict[str, tuple[float, float]]
"""Sums and what they are divided by."""

LONGEST = "longest_answer_tokens"
"""The one figure that is no mean."""


class SampledUnit(NamedTuple):
    """The answers to the N images of a unit."""

    rows: list[Row]  # one an image, with the ids of its K answers
    features: list[ImageFeatures]  # of each image
    answers: list[list[Generated]]  # N lists of K
    rewards: UnitRewards
    total: Tensor  # (N, K)


def sample_units(
    vlm: Vlm,
    chat: Chat,
    units: Sequence[dict[str, Any]],
    settings: Grpo,
    reward: RewardFunction,
    *,
    seed: int,
    step: int,
    max_length: int,
) -> list[SampledUnit]:
    """Sample K answers for every image of the units (rows of `unit_rows`), all of them side by side, and reward them.

    The model has to be in evaluation mode. Raises `DataError` naming an image whose prompt and answer may be longer
    than `max_length` tokens, `ModelError` for rewards that do not fit.
    """
    questions = [
        Question(chat._replace(prompt=unit["prompt"]), [image], [""] * settings.answers, noise_key(step, unit, place))
        for unit in units
        for place, image in enumerate(unit["images"])
    ]
    decoding = Sampled(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p, seed=seed
    )
    given = generate_answers(vlm, questions, decoding, keep_features=True)
    found = iter(zip(questions, given.answers, given.features, strict=True))
    sampled = []
    for unit in units:
        of_unit = [next(found) for _ in unit["images"]]
        answers = [generated for _, generated, _ in of_unit]
        _check_length(unit["unit"], answers, settings.max_new_tokens, max_length)
        rewards = reward(unit["unit"], [[one.text for one in of_image] for of_image in answers])
        total = total_rewards(rewards, len(answers), settings.answers, f"unit {unit['at']}")
        rows = [Row(asked.images, asked.chat.prompt, [one.ids for one in of_image]) for asked, of_image, _ in of_unit]
        sampled.append(SampledUnit(rows, [features for *_, features in of_unit], answers, rewards, total))
    return sampled


def noise_key(step: int, unit: Mapping[str, Any], place: int) -> str:
    """The name of an image in a step: of two units with the same image each has noise of its own."""
    return json.dumps([step, unit["at"], place, images_of(unit["unit"])[place]["image"]])


def figures_of(sampled: Sequence[SampledUnit]) -> Figures:
    """The log's figures of these units; `mean_figures` puts those of all processes together."""
    if not sampled:
        return {}
    answers = [one for unit in sampled for of_image in unit.answers for one in of_image]
    total = torch.cat([unit.total for unit in sampled])
    count = float(len(answers))

    def mean(values: Sequence[float]) -> tuple[float, float]:
        return float(sum(values)), count

    parsed = [one for unit in sampled for row in unit.rewards.parsed for one in row]
    parts = {
        f"rewards/{name}": mean([value for unit in sampled for row in unit.rewards.parts[name] for value in row])
        for name in sampled[0].rewards.parts
    }
    return {
        "reward": (float(total.sum()), count),
        **parts,
        "no_variance_share": (float(without_variance(total).sum()), float(len(total))),
        "parse_rate": mean(parsed),
        "answer_tokens": mean([one.tokens for one in answers]),
        "truncated_share": mean([not one.finished for one in answers]),
        LONGEST: (float(max(one.tokens for one in answers)), 1.0),
    }


def mean_figures(of_processes: Sequence[Figures]) -> dict[str, float]:
    """The figures of a step from those of all processes."""
    names = dict.fromkeys(name for figures in of_processes for name in figures)
    found: dict[str, float] = {}
    for name in names:
        sums, counts = zip(*(figures[name] for figures in of_processes if name in figures), strict=True)
        found[name] = max(sums) if name == LONGEST else sum(sums) / sum(counts)
    return found


def _check_length(unit: Unit, answers: list[list[Generated]], longest: int, max_length: int) -> None:
    for image, of_image in zip(images_of(unit), answers, strict=True):
        if (length := of_image[0].prompt_tokens + longest) > max_length:
            raise DataError(
                f"{image['image']}: a prompt of {of_image[0].prompt_tokens} tokens and an answer of up to {longest} are"
                f" {length}, more than training.max_length = {max_length}; raise it, or lower model.resize_px or the"
                " longest answer"
            )
