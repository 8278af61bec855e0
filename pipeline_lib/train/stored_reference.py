"""DPO with stored log-probabilities of the reference (decision 12), so no step computes the reference.

The pairs for the trainer then also have the columns of `REFERENCE`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from trl import DPOTrainer

from pipeline_lib.train.prefix_shared import PrefixSharedDPOTrainer

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
"""Summed log-probabilities of a pair's answers under the reference, by the names that TRL's loss knows."""


class StoredReferenceDPOTrainer(DPOTrainer):
    """TRL's trainer, for models that cannot share the prefix."""

    data_collator: Any

    def __init__(self, **options: Any):
        super().__init__(**options)
        # TRL refuses its option of this name where there are images, because it would compute the values itself.
        self.precompute_ref_logps = True
        self.data_collator = partial(_collate, self.data_collator)


class FastDPOTrainer(StoredReferenceDPOTrainer, PrefixSharedDPOTrainer):
    """One pass a step, over the prefix of each pair once."""


def _collate(collate: Callable[[list[dict[str, Any]]], Any], pairs: list[dict[str, Any]]) -> Any:
    stored = {name: torch.tensor([pair[name] for pair in pairs]) for name in REFERENCE}
    batch = collate(pairs)
    batch.update(stored)
    return batch
