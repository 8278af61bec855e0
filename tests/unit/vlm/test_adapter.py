"""Adapters of the store: plain LoRA in safetensors, or refused before a library reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from pipeline_lib.errors import StoreError
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.tiny import model_ref
from pipeline_lib.train.lora import lora_config, save_adapter
from pipeline_lib.vlm.load import load_base, load_vlm

CPU = torch.device("cpu")
REF = ArtifactRef(stage="train_score", key="k")


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """The folder of an adapter as WhyScore writes it."""
    model = load_base(model_ref(tiny_model), CPU).model
    save_adapter(get_peft_model(model, lora_config(model, 4)), tmp_path / "adapter", "default", "tiny")
    return tmp_path / "adapter"


@pytest.fixture
def load(tiny_model: Path, adapter: Path, tmp_path: Path) -> Any:
    """Publish the adapter's folder and load the model under it."""

    def call() -> Any:
        store = ArtifactStore(str(tmp_path / "store"))
        with store.attempt() as attempt:
            for path in adapter.iterdir():
                (attempt.folder / path.name).write_bytes(path.read_bytes())
            store.publish(REF.address, attempt, {})
        return load_vlm(model_ref(tiny_model).with_adapter(REF), store, CPU)

    return call


def test_an_adapter_as_it_is_written_is_loaded(load: Any) -> None:
    assert load().model is not None


def test_an_adapter_in_another_format_than_safetensors_is_refused(load: Any, adapter: Path) -> None:
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(StoreError):
        load()


@pytest.mark.parametrize(
    "fields",
    [
        {"megatron_config": {"tensor_model_parallel_size": 1}, "megatron_core": "this"},
        {"peft_type": "VERA"},
        {"modules_to_save": ["lm_head"]},
        {"unknown": 1},
    ],
)
def test_a_configuration_that_asks_for_more_than_lora_is_refused(
    load: Any, adapter: Path, fields: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """`megatron_core` is a module that PEFT imports; `this` prints a poem when it is imported."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(StoreError, match=next(iter(fields))):
        load()
    assert "Zen" not in capsys.readouterr().out


def test_torn_configurations_are_refused(load: Any, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("[")
    with pytest.raises(StoreError):
        load()


def test_other_ranks_are_plain_lora_too(tiny_model: Path, adapter: Path, load: Any) -> None:
    found = json.loads((adapter / "adapter_config.json").read_text())
    assert found["r"] == 4 and LoraConfig().r != 4
    load()
