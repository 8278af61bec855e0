"""What is not trained stays as it is, and computes as in inference: no statistics move, nothing is dropped."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline_lib.config.base import Grpo
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.tiny import PROMPT, model_ref, picture, preference_pairs, reference_of, training
from pipeline_lib.train.answer_logps import plain_logps
from pipeline_lib.train.dpo import train_dpo
from pipeline_lib.train.grpo import train_grpo
from pipeline_lib.train.job import GRPO, SFT, Reward
from pipeline_lib.train.lora import language_linears
from pipeline_lib.train.prefix_rows import Row
from pipeline_lib.train.rewards import UnitRewards
from pipeline_lib.train.sft import train_sft
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.load import Vlm, load_base
from tests.families.conftest import Loaded

ROWS, STEPS = 4, 2
TRAINING = Training(learning_rate=1e-2, lora_rank=2, batch_size=ROWS, micro_batch_size=2, max_length=400)
TRAINING = TRAINING.model_copy(update={"epochs": STEPS})


def open_image(image: str, sha256: str) -> Image.Image:
    return picture(image, 96).crop((0, 0, 60, 40))


def lengths(unit: dict[str, Any], answers: list[list[str]]) -> UnitRewards:
    """A reward for GRPO."""
    return UnitRewards(
        {"length": [[float(len(text)) for text in of_image] for of_image in answers]},
        [[True for _ in of_image] for of_image in answers],
    )


def with_dropout(model: Path, folder: Path) -> Path:
    """A copy whose configuration asks for every kind of dropout that its parts know."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    for part in [config, *(value for value in config.values() if isinstance(value, dict))]:
        part |= {name: 0.5 for name, value in part.items() if "drop" in name and isinstance(value, float)}
    config["text_config"]["attention_dropout"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def frozen(model: Any) -> dict[str, torch.Tensor]:
    """Weights and buffers of the base, those that are not saved too."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name.replace(".base_layer", ""): value for name, value in found.items() if "lora_" not in name}


@contextmanager
def running(model: Any) -> Iterator[list[tuple[str, bool]]]:
    """The name of each module that runs, and whether it is in training mode then."""
    runs: list[tuple[str, bool]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _, name=name: runs.append((name, module.training)))
        for name, module in model.named_modules()
    ]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def train(loss: str, vlm: Vlm, chat: Chat, folder: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Two steps; the log."""
    pairs = preference_pairs(ROWS, chat.prompt)
    reference = reference_of(load_base(model_ref(folder), vlm.device), chat, pairs, open_image)
    settings = Grpo(answers=2, max_new_tokens=4, beta=0.05)
    losses: dict[str, Any] = {
        "dpo": {},
        "sft": {"loss": SFT()},
        "grpo": {"loss": GRPO(settings=settings, reward=Reward(function=f"{__name__}:lengths"))},
    }
    given = training(
        folder, ArtifactStore(str(tmp_path / "store")), f"steps/{loss}/k", tmp_path / "adapter", TRAINING,
        checkpoint_every=10, gradient_checkpointing=True, **losses[loss],
    )  # fmt: skip
    if loss == "grpo":
        images = [[{"image": name, "image_sha256": "0" * 64}] for name in pairs["image"].to_pylist()]
        units = pa.table({"images": images, "prompt": [chat.prompt] * ROWS})
        return train_grpo(vlm, chat, units, open_image, **given).to_pylist()
    if loss == "sft":
        return train_sft(vlm, chat, pairs, open_image, **given).to_pylist()
    return train_dpo(vlm, chat, pairs, open_image, reference, **given).to_pylist()


@pytest.mark.parametrize("loss", ["dpo", "sft", "grpo"])
def test_every_frozen_part_is_in_evaluation_mode_and_does_not_change(loaded: Loaded, loss: str, tmp_path: Path) -> None:
    folder = with_dropout(loaded.folder, tmp_path / "model")
    vlm = load_base(model_ref(folder), torch.device("cpu"))
    chat = render_chat(vlm.processor, PROMPT)
    before = {name: value.clone() for name, value in frozen(vlm.model).items()}
    expected = loss_of_base(vlm, chat)
    layers = {
        name: module
        for name, module in vlm.model.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
        and any(linear.startswith(f"{name}.") for linear in language_linears(vlm.model))
    }
    with running(vlm.model) as runs:
        log = train(loss, vlm, chat, folder, tmp_path)
    after = frozen(vlm.model)
    assert before.keys() <= after.keys()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    # Only layers that are computed again in the backward pass run in training mode, and nothing within them.
    assert {name for name, mode in runs if mode} == layers.keys()
    attention = next(name for name, _ in runs if name.startswith(next(iter(layers))) and name.endswith("attn"))
    assert len(log) == STEPS and sum(name == attention for name, _ in runs) > 2 * STEPS  # they are computed again
    # A fresh adapter changes nothing, so the first step sees the base as it is in inference.
    first = log[0]
    if loss == "dpo":
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert first["reward_margin"] == pytest.approx(0, abs=1e-5)
    elif loss == "grpo":
        assert first["kl"] == pytest.approx(0, abs=1e-9)
    else:
        assert first["loss"] == pytest.approx(expected, abs=1e-4)


def loss_of_base(vlm: Vlm, chat: Chat) -> float:
    """The mean negative log-likelihood over the tokens of all chosen answers."""
    rows = preference_pairs(ROWS, chat.prompt).to_pylist()
    answers = [chat.answer(row["chosen"], finished=row["chosen_finished"]) for row in rows]
    asked = [
        Row([open_image(row["image"], "")], row["prompt"], [text]) for row, text in zip(rows, answers, strict=True)
    ]
    summed = sum(values[0] for values in plain_logps(vlm, asked))
    return -summed / sum(len(tokens(vlm.processor.tokenizer, text)) for text in answers)
