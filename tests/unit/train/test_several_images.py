"""Supervised training on rows about several images."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.tiny import PROMPT, model_ref, open_picture, picture, training
from pipeline_lib.train.job import SFT
from pipeline_lib.train.pairs import lazy_rows
from pipeline_lib.train.sft import train_sft
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base

CONFIG = Training(lora_rank=2, batch_size=2, micro_batch_size=2, learning_rate=1e-2)


def rows(prompt: str, *names: tuple[str, str]) -> pa.Table:
    count = len(names)
    return pa.table(
        {
            "images": [[{"image": name, "image_sha256": "0" * 64} for name in two] for two in names],
            "prompt": [prompt] * count,
            "chosen": ["sharp and bright."] * count,
            "prompt_tokens": [60] * count,
            "chosen_tokens": [10] * count,
            "chosen_finished": [True] * count,
        }
    )


def train(model: Path, folder: Path, table: pa.Table) -> tuple[pa.Table, dict[str, torch.Tensor]]:
    store = ArtifactStore(str(folder / "store"))
    vlm = load_base(model_ref(model), torch.device("cpu"))
    (folder / "adapter").mkdir(parents=True)
    given: dict[str, Any] = training(model, store, "steps/train/k", folder / "adapter", CONFIG, loss=SFT())
    log = train_sft(vlm, render_chat(vlm.processor, PROMPT), table, open_picture, **given)
    return log, load_file(folder / "adapter" / "adapter_model.safetensors")


def test_both_images_of_a_row_are_trained_on_in_their_order(tiny_model: Path, tmp_path: Path) -> None:
    chat = render_chat(load_base(model_ref(tiny_model), torch.device("cpu")).processor, PROMPT, images=2)
    loss, adapter = train(tiny_model, tmp_path / "1", rows(chat.prompt, ("a", "b"), ("c", "d")))
    again = train(tiny_model, tmp_path / "2", rows(chat.prompt, ("a", "b"), ("c", "d")))
    assert loss.num_rows == 1 and loss.equals(again[0])
    assert all(torch.equal(adapter[name], again[1][name]) for name in adapter)
    for at, two in enumerate((("b", "a"), ("a", "e"), ("e", "b"))):
        other, _ = train(tiny_model, tmp_path / f"other-{at}", rows(chat.prompt, two, ("c", "d")))
        assert other["loss"].to_pylist() != loss["loss"].to_pylist(), two


def test_a_row_holds_its_opened_images(tiny_model: Path) -> None:
    made = lazy_rows(rows("p", ("b", "a")), open_picture, lambda pair: {"completion": pair["chosen"]})
    assert [image.tobytes() for image in made[0]["images"]] == [picture(name).tobytes() for name in "ba"]
    assert "image" not in made[0]


def test_a_row_that_is_too_long_is_named_by_both_images(tiny_model: Path, tmp_path: Path) -> None:
    table = rows("p", ("a", "b"))
    with pytest.raises(DataError, match="a, b: 5011 tokens"):
        train(tiny_model, tmp_path, table.set_column(2 + 1, "prompt_tokens", [[5000]]))
