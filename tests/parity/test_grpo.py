"""GRPO with a shared prefix is stock TRL's: log-probabilities, gradients, and the weights after twenty steps.

Both are given the same samples. Each kind of mistake in the mechanism is made once, and is seen.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline_lib.train import prefix_rows, prefix_shared_grpo
from pipeline_lib.vlm.generate import attention
from tests.parity.grpo import NAMES, SETTINGS, STEPS, Trained, apart, gradients_apart, logps_apart, train
from tests.parity.pairs import three_families
from tests.parity.test_log_probabilities import BREAKS

FIGURES = {
    **{figure: figure for figure in ("loss", "grad_norm", "learning_rate", "reward")},
    "clip_ratio/region_mean": "clip_ratio/region_mean",
    "no_variance_share": "frac_reward_zero_std",
    "answer_tokens": "completions/mean_length",
    "longest_answer_tokens": "completions/max_length",
    "truncated_share": "completions/clipped_ratio",
}
"""Figures of our log, and stock TRL's names of them. KL and entropy are means over tokens: its are of a batch alone."""

ADVANTAGES = prefix_shared_grpo.advantages


def _of_the_image_before(rewards: Tensor, scale: Any) -> Tensor:
    return ADVANTAGES(rewards.roll(1, 0), scale)


def same_figures(ours: Trained, theirs: Trained) -> None:
    for mine, stock in zip(ours.log, theirs.log, strict=True):
        for name, of_stock in FIGURES.items():
            if of_stock == "completions/max_length":  # stock TRL logs the mean over its batches
                assert mine[name] >= stock[of_stock]
            else:
                assert mine[name] == pytest.approx(stock[of_stock], rel=1e-4, abs=1e-4), name


@pytest.fixture(scope="module")
def stock() -> Callable[..., Trained]:
    """Stock TRL trains once for each setting, whatever is broken of ours."""
    known: dict[str, Trained] = {}

    def trained(name: str, settings: Any = SETTINGS, **options: Any) -> Trained:
        asked = f"{name} {settings} {sorted(options.items())}"
        if asked not in known:
            known[asked] = train("stock", name, settings, **options)
        return known[asked]

    return trained


@pytest.mark.parametrize("name", three_families())
def test_twenty_steps(name: str, stock: Callable[..., Trained]) -> None:
    ours, theirs = train("ours", name), stock(name)
    assert len(ours.log) == STEPS and ours.log[0]["no_variance_share"] == pytest.approx(1 / len(NAMES))
    assert logps_apart(ours, theirs) < 1e-5
    assert gradients_apart(ours, theirs) < 1e-5
    assert apart(ours, theirs) < 1e-5
    same_figures(ours, theirs)
    # Stock TRL encodes an image for each answer under policy and reference; here sampling has encoded it already.
    assert theirs.encoded == 2 * SETTINGS.answers * ours.encoded
    assert ours.read < 0.6 * theirs.read


@pytest.mark.parametrize("name", three_families())
def test_in_float64_a_tokens_log_probability_is_the_same(name: str) -> None:
    ours, theirs = (train(kind, name, steps=1, dtype=torch.float64) for kind in ("ours", "stock"))
    assert logps_apart(ours, theirs) < 1e-12


@pytest.mark.parametrize("name", ["llava-interleave", "qwen2.5-vl"])
@pytest.mark.parametrize("broken", [*BREAKS, "group"])
def test_a_wrong_mask_position_or_group_is_seen(
    name: str, broken: str, stock: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "group":
        monkeypatch.setattr(prefix_shared_grpo, "advantages", _of_the_image_before)
    else:
        monkeypatch.setattr(prefix_rows, broken, BREAKS[broken])
    ours, theirs = train("ours", name), stock(name)
    assert apart(ours, theirs) > 1e-4
    assert gradients_apart(ours, theirs) > 1e-3
    assert (logps_apart(ours, theirs) > 1e-2) == (broken != "group")


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"answers_per_pass": 3}, {}),
        ({"answers_per_pass": 1}, {"micro": 1}),
        ({"loss_type": "dapo", "answers_per_pass": 2}, {"micro": 1}),
        ({"loss_type": "dr_grpo", "scale_rewards": "none"}, {"micro": 1}),
        ({"beta": 0.0}, {}),
        ({"temperature": 0.7}, {"gradient_checkpointing": True}),
    ],
    ids=["passes", "accumulation", "dapo", "dr_grpo", "no reference", "gradient checkpointing"],
)
@pytest.mark.parametrize(
    "name", ["llava-interleave", pytest.param("qwen3-vl", marks=pytest.mark.only_with("--all-families"))]
)
def test_with(name: str, settings: dict[str, Any], options: dict[str, Any], stock: Callable[..., Trained]) -> None:
    """Of stock TRL a step is one batch: its losses over tokens are means of each batch alone."""
    given = SETTINGS.model_copy(update=settings)
    ours = train("ours", name, given, steps=4, **options)
    theirs = stock(name, given.model_copy(update={"answers_per_pass": None}), steps=4, stock_images=len(NAMES))
    assert apart(ours, theirs) < 1e-5 and gradients_apart(ours, theirs) < 1e-4
    for mine, other in zip(ours.log, theirs.log, strict=True):
        for figure in ("loss", "grad_norm", "entropy", *(["kl"] if given.beta else [])):
            assert mine[figure] == pytest.approx(other[figure], rel=1e-4, abs=1e-4), figure


def test_in_16_bit_it_differs_by_no_more_than_16_bit_does() -> None:
    half = {"steps": 3, "dtype": torch.bfloat16, "bf16": True}
    ours, theirs, exact = (
        train("ours", "llava-1.5", **half),
        train("stock", "llava-1.5", **half),
        train("stock", "llava-1.5", steps=3),
    )
    noise = logps_apart(theirs, exact)
    assert logps_apart(ours, exact) < 2 * noise and logps_apart(ours, theirs) < 2 * noise
    for mine, stock, true in zip(ours.log, theirs.log, exact.log, strict=True):
        assert mine["reward"] == pytest.approx(stock["reward"])
        assert mine["entropy"] == pytest.approx(true["entropy"], rel=2e-2)
        assert abs(mine["kl"] - true["kl"]) < 0.05 + 2 * abs(stock["kl"] - true["kl"])


def test_lines_attended_in_blocks_give_the_same(stock: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of seven lines cut through answers; with real answers a block has hundreds."""
    monkeypatch.setattr(attention, "LINES", 7)
    ours, theirs = train("ours", "qwen2.5-vl"), stock("qwen2.5-vl")
    assert logps_apart(ours, theirs) < 1e-5 and gradients_apart(ours, theirs) < 1e-5
    assert apart(ours, theirs) < 1e-5
    assert not attention._blocks  # which keeps no mask
