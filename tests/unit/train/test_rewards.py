"""Rewards of a unit, written out, and the advantages within each image."""

import json
from typing import Any

import pytest
import torch

from pipeline_lib.errors import DataError, ModelError
from pipeline_lib.testing.tiny import open_picture
from pipeline_lib.train.grpo import log_table, unit_rows
from pipeline_lib.train.job import Reward
from pipeline_lib.train.rewards import UnitRewards, advantages, load_reward, total_rewards, without_variance
from pipeline_lib.train.rollout import noise_key
from tests.parity.grpo import units

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.7, 0.7, 0.7, 0.7]], dtype=torch.float64)


def test_an_advantage_is_the_distance_from_the_images_mean_in_deviations() -> None:
    deviation = (4 * 0.25 / 3) ** 0.5  # of 1, 0, 0, 1, with K - 1 = 3
    expected = 0.5 / (deviation + 1e-4)
    assert advantages(REWARDS, "group").tolist() == [
        pytest.approx([expected, -expected, -expected, expected]),
        [0.0] * 4,
    ]
    assert advantages(REWARDS, "none").tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]


def test_equal_rewards_teach_exactly_nothing() -> None:
    """The mean of six times .1 is not .1, and a deviation of 0 would make much of that."""
    equal = torch.full((1, 6), 0.1, dtype=torch.float64)
    assert float(equal.mean()) != 0.1
    assert advantages(equal, "group").tolist() == advantages(equal, "none").tolist() == [[0.0] * 6]
    assert without_variance(REWARDS).tolist() == [False, True]


def test_the_parts_are_added() -> None:
    parts = {"rank": [[0.5, 1.0]], "format": [[1.0, 0.0]]}
    assert total_rewards(UnitRewards(parts, [[True, False]]), 1, 2, "unit 3").tolist() == [[1.5, 1.0]]


@pytest.mark.parametrize(
    ("parts", "parsed", "says"),
    [
        ({"rank": [[1.0, 2.0]]}, [[True, True]], r"unit 3: rank .* \[2\] .* not \[2, 2\]"),
        ({"rank": [[1.0, 2.0], [1.0]]}, [[True] * 2] * 2, r"unit 3: rank .* \[2, 1\]"),
        ({"rank": [[1.0, 2.0]] * 2}, [[True, True]], "unit 3: parsed"),
        ({"rank": [[1.0, float("nan")]] * 2}, [[True] * 2] * 2, "unit 3: part rank .* not a finite"),
        ({}, [[True] * 2] * 2, "unit 3: .* no part"),
    ],
)
def test_rewards_that_do_not_fit_are_refused(parts: Any, parsed: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        total_rewards(UnitRewards(parts, parsed), 2, 2, "unit 3")


def test_a_reward_function_is_found_by_name_with_its_settings() -> None:
    reward = load_reward(Reward(function="tests.parity.test_grpo_training:letters", settings={"weight": 2.0}))
    found = reward({"images": [{"image": "a"}]}, [["ab", "x"]])
    assert found == UnitRewards({"vowels": [[2.0, 0.0]]}, [[True, True]])


@pytest.mark.parametrize("name", ["pipeline_lib.nowhere:reward", "pipeline_lib.train.rewards:nothing"])
def test_a_missing_reward_function_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name} is not there"):
        load_reward(Reward(function=name))


def test_a_table_of_units_without_images_or_prompts_is_refused() -> None:
    with pytest.raises(DataError, match="lacks prompt; it has images"):
        unit_rows(units("p").drop_columns(["prompt"]), open_picture)


def test_a_row_has_its_images_opened_and_the_methods_columns() -> None:
    table = units("p").append_column("vote", [[0, 1, 1]])
    row = unit_rows(table, open_picture)[1]
    assert row["at"] == 1 and row["prompt"] == "p" and len(row["images"]) == 2
    assert row["unit"] == table.to_pylist()[1]


def test_the_name_of_the_noise() -> None:
    row = {"at": 7, "unit": {"images": [{"image": "a.png"}, {"image": "a.png"}]}}
    assert json.loads(noise_key(3, row, 1)) == [3, 7, 1, "a.png"]
    assert len({noise_key(step, row | {"at": at}, place) for step in (0, 1) for at in (0, 1) for place in (0, 1)}) == 8


def test_the_log_has_zero_for_a_kl_that_was_not_computed() -> None:
    record: dict[str, Any] = dict.fromkeys(
        ("step", "loss", "learning_rate", "grad_norm", "reward", "entropy", "clip_ratio/region_mean", "parse_rate"), 1
    )
    record |= dict.fromkeys(("no_variance_share", "answer_tokens", "truncated_share"), 2)
    (row,) = log_table([record | {"longest_answer_tokens": 5.0, "rewards/rank": 0.5}]).to_pylist()
    assert row["kl"] == 0.0 and row["reward_parts"] == [{"part": "rank", "mean": 0.5}]
