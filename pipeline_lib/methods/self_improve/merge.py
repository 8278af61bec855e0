"""Merge the score and the consistency adapter into one (section 3.2, appendix A.1)."""

import math
import warnings
from pathlib import Path

import torch
from peft import PeftModel

from pipeline_lib.methods.self_improve.recipe import Merge
from pipeline_lib.train.lora import save_adapter
from pipeline_lib.vlm.load import Vlm

_IN_DELTA_SPACE = {
    "ties": "ties_svd",
    "linear": "svd",
    "dare_ties": "dare_ties_svd",
    "magnitude_prune": "magnitude_prune_svd",
}
"""PEFT's names of the methods on weight updates; on the factors they are the recipe's names."""


def merge_adapters(
    base: Vlm,
    score_adapter: Path,
    consistency_adapter: Path,
    save_to: Path,
    merge: Merge,
    *,
    seed: int,
    base_name: str,
) -> None:
    """Merge two adapters of one rank with PEFT and write the result, of that rank too, to `save_to`.

    In space `factors`, as in the paper, the two LoRA factors are merged each by itself; in space `delta` their product,
    whose best approximation of the rank is kept. `seed` decides the random drops of `dare_ties`, so a repeated merge
    gives the same bytes. PEFT leaves an adapter with scaling 1; here the factors are rescaled so that the merged
    adapter has the scaling of the trained ones (alpha = 2 x rank) and the same product, and the next iteration's
    training continues from it with unchanged step sizes (decision 5).
    """
    model = PeftModel.from_pretrained(base.model, str(score_adapter), adapter_name="score")
    model.load_adapter(str(consistency_adapter), adapter_name="consistency")
    trained = model.peft_config["score"]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density .* no pruning")  # density 1 is intended
        torch.manual_seed(seed)
        model.add_weighted_adapter(
            adapters=["score", "consistency"],
            weights=list(merge.weights),
            adapter_name="merged",
            combination_type=merge.method if merge.space == "factors" else _IN_DELTA_SPACE[merge.method],
            density=merge.density,
            majority_sign_method=merge.majority_sign_method,
            svd_full_matrices=False,  # the singular vectors beyond the rank are not kept
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
