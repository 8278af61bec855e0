"""Merge the score and the consistency adapter into one with TIES (section 3.2, appendix A.1)."""

import math
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel

from pipeline_lib.train.lora import save_adapter
from pipeline_lib.vlm.load import Vlm


def ties_merge_adapters(
    base: Vlm,
    score_adapter: Path,
    consistency_adapter: Path,
    save_to: Path,
    *,
    weights: tuple[float, float],
    density: float,
    majority_sign_method: Literal["frequency", "total"],
    base_name: str,
) -> None:
    """Trim, elect signs and merge two adapters of one rank with PEFT's `ties`, and write the result to `save_to`.

    As in the paper, PEFT merges the two LoRA factors separately. It leaves an adapter with scaling 1; here the factors
    are rescaled so that the merged adapter has the scaling of the trained ones (alpha = 2 x rank) and the same product,
    and the next iteration's training goes on from it with unchanged step sizes.
    """
    model = PeftModel.from_pretrained(base.model, str(score_adapter), adapter_name="score")
    model.load_adapter(str(consistency_adapter), adapter_name="consistency")
    trained = model.peft_config["score"]
    model.add_weighted_adapter(
        adapters=["score", "consistency"],
        weights=list(weights),
        adapter_name="merged",
        combination_type="ties",
        density=density,
        majority_sign_method=majority_sign_method,
    )
    config = model.peft_config["merged"]
    shrink = math.sqrt((config.lora_alpha / config.r) / (trained.lora_alpha / trained.r))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".merged." in name and "lora_" in name:
                weight.mul_(shrink)
    config.lora_alpha = trained.lora_alpha
    config.target_modules = trained.target_modules
    save_adapter(model, save_to, "merged", base_name)
