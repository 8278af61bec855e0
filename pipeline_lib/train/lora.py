"""LoRA on the linear layers of the language model only (section 4.2)."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline_lib.errors import ModelError


def language_linears(model: Any) -> list[str]:
    """Full names of every linear layer of the language model; without head, projector and vision tower.

    Raises `ModelError` when the model has none, because its language model has an unknown structure.
    """
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    names = [f"{prefix}.{name}" for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    names = [name for name in names if not name.endswith("lm_head")]
    if not names:
        raise ModelError(f"{type(model).__name__}: no linear layers in its language model {type(decoder).__name__}")
    return names


def lora_config(model: Any, rank: int) -> LoraConfig:
    """LoRA of the given rank with alpha twice the rank (appendix A.1), without dropout."""
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=language_linears(model),
        task_type="CAUSAL_LM",
    )


def check_lora(model: PeftModel, expected: list[str]) -> None:
    """Raise `ModelError` unless exactly the expected layers carry LoRA and nothing else is trained."""
    found = {name for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)}
    if found != set(expected):
        raise ModelError(
            f"LoRA sits on {len(found)} layers instead of {len(expected)};"
            f" unexpected: {sorted(found - set(expected))[:3]}, missing: {sorted(set(expected) - found)[:3]}"
        )
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad and "lora_" not in name]
    if trained:
        raise ModelError(f"weights outside LoRA would be trained: {trained[:3]}")


def keep_base_in_evaluation_mode(model: PeftModel) -> None:
    """Make `model.train()` leave the frozen base in evaluation mode, so that it computes as in inference.

    Else a convolutional tower would normalise by the batch and move its statistics, and every dropout of the base's own
    configuration would act. LoRA itself has no dropout. Only the layers with LoRA that are to be computed again in the
    backward pass (gradient checkpointing) are put in training mode, without what is within them: transformers looks
    there, and TRL at the model as a whole.
    """
    carriers = {
        layer
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer)
        and any(isinstance(module, LoraLayer) for module in layer.modules())
    }

    def train(mode: bool = True) -> PeftModel:
        nn.Module.train(model, False)
        model.training = mode
        for layer in carriers:
            layer.training = mode and layer.gradient_checkpointing
        return model

    model.train = train


def save_adapter(
    model: PeftModel, folder: Path, adapter: str, base_name: str, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, the same bytes for the same adapter anywhere.

    The configuration names the base as the recipe does, not by the directory it was loaded from, and lists the target
    modules sorted. `weights` are those of the adapter, when the model does not hold them itself.
    """
    config = model.peft_config[adapter]
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    model.save_pretrained(str(folder), selected_adapters=[adapter], save_embedding_layers=False, state_dict=weights)
    if adapter != "default":  # PEFT puts any other adapter into a folder of its own
        for path in (folder / adapter).iterdir():
            path.rename(folder / path.name)
        (folder / adapter).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
