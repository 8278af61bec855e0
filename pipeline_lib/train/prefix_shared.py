"""DPO that runs the vision tower once an image and the prefix of a pair once a pass (decision 9).

TRL's trainer encodes the image of a pair four times a step and computes its prefix four times, for chosen and rejected
under policy and reference. Here a pair is one row (`prefix_rows`), its image is encoded once, and only the states that
predict an answer's tokens go to the language model's head. Loss and log are TRL's own code. The reference is not
computed in a step (`stored_reference`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer

from pipeline_lib.train import prefix_rows
from pipeline_lib.vlm.generate.attention import attention_behind_prefix
from pipeline_lib.vlm.generate.features import image_features

FOR_TRL = ("input_ids", "completion_mask", "attention_mask", "ref_chosen_logps", "ref_rejected_logps")
"""The parts of a batch for TRL's loss; the others are for the rows."""

FEATURES = "image_features"
"""The part of a batch that holds its images' features, where they are known before."""


class PrefixSharedDPOTrainer(DPOTrainer):
    """TRL's trainer of LoRA adapters on vision data, with the prefix of a pair computed once a pass.

    Takes rows with `image`, `prompt`, `chosen` and `rejected` (strings) and a `peft_config`; the reference is the base
    without adapter, computed in each step. Does not evaluate.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.data_collator = partial(prefix_rows.collate_pairs, self.processing_class)

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        """TRL's; with gradient checkpointing its backward pass runs the layers once more."""
        with attention_behind_prefix(self.model):
            loss: Tensor = super().training_step(*given, **named)
        return loss

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        # Both passes that TRL makes, with and without adapter, then run on the rows and return states of the answers.
        answers = {name: inputs[name] for name in FOR_TRL if name in inputs}
        with sharing_prefix(self.accelerator.unwrap_model(self.model).get_base_model().model, inputs):
            return super()._compute_loss(model, answers, return_outputs)


@contextmanager
def sharing_prefix(inner: Any, batch: dict[str, Any]) -> Iterator[None]:
    """Within it, each call of a VLM without its head runs on the rows of `batch`, whatever its arguments are.

    Such a call returns states of shape (KB, 1 + A, hidden) for a batch of `prefix_rows`: the one in
    column i predicts token i of an answer, the last column has no meaning. The images are encoded in the first call:
    weights that are shared among GPUs are complete only within a call.
    """
    rows = cache(lambda: _model_inputs(inner, batch))
    pairs, (rows_of_answers, length) = len(batch["row_parts"]), batch["input_ids"].shape
    predictors = prefix_rows.predictors(batch["row_parts"], rows_of_answers // pairs, length)
    pair = torch.arange(pairs, device=predictors.device).repeat(rows_of_answers // pairs)[:, None]

    def states(_module: Any, _arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[pair, predictors]
        return output

    hooks = [
        inner.register_forward_pre_hook(lambda *_: ((), rows()), with_kwargs=True),
        inner.register_forward_hook(states),
    ]
    try:
        with attention_behind_prefix(inner):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _model_inputs(inner: Any, batch: dict[str, Any]) -> dict[str, Any]:
    features = batch[FEATURES] if FEATURES in batch else image_features(inner, batch)
    ids, parts = batch["row_ids"], batch["row_parts"]
    if hasattr(inner, "get_rope_index"):  # positions in three dimensions: those of an image follow its grid
        positions, _ = inner.get_rope_index(
            ids,
            mm_token_type_ids=batch["mm_token_type_ids"],
            image_grid_thw=batch["image_grid_thw"],
            attention_mask=batch["attention_mask"],
        )
    else:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return {
        "input_ids": ids,
        "mm_encoder_outputs": {"image": features},
        # Without a mask of four dimensions, positions that start again would be read as separate texts.
        "attention_mask": prefix_rows.visible(parts),
        "position_ids": prefix_rows.restart(positions, parts),
        "use_cache": False,
    }
