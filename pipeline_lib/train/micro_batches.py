"""The micro-batches of an optimiser step, and the weight of each, in one process or in several (decision 14).

A step's loss is the mean over its pairs, or over its target tokens, and so is each figure of the log. TRL computes
means over one micro-batch. The mean of these means is another number when micro-batches differ in size: an epoch's last
one has fewer pairs, and each has another number of tokens. So each micro-batch counts with its share of the step. The
size of the micro-batches and the number of processes then change rounding alone.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import BatchSampler

UNITS = ("pairs", "tokens", "chosen_tokens", "rejected_tokens")
"""The units of means. A supervised row is a pair with only a chosen answer, and so is a sampled answer."""

MEAN_OVER = {
    "sigmoid": "pairs",
    "sft": "chosen_tokens",
    "nll": "chosen_tokens",
    "aux_loss": "pairs",
    "entropy": "tokens",
    "mean_token_accuracy": "chosen_tokens",
    **{f"{figure}/{side}": "pairs" for figure in ("rewards", "logps") for side in ("chosen", "rejected")},
    "rewards/accuracies": "pairs",
    "rewards/margins": "pairs",
    "logits/chosen": "chosen_tokens",
    "logits/rejected": "rejected_tokens",
    "grpo": "pairs",
    "dr_grpo": "pairs",
    "dapo": "tokens",
    "kl": "tokens",
    **{f"clip_ratio/{side}_mean": "tokens" for side in ("low", "high", "region")},
}
"""The unit of each of TRL's loss types and logged figures. `num_tokens` is no mean, but the tokens of all passes."""


class MicroBatchSampler(BatchSampler):
    """Every N-th micro-batch of each optimiser step, from the process's own number on: all of them, if N is 1.

    A process that has fewer than others in an epoch's last step gets a filler of one pair, which must not count: all
    processes must run as many passes, because they wait for each other in each.
    """

    def __init__(self, micro_batches: BatchSampler, per_step: int, processes: int, process: int):
        self.micro_batches, self.per_step, self.processes, self.process = micro_batches, per_step, processes, process
        self.sampler = micro_batches.sampler  # accelerate looks here for what draws each epoch's order

    def __len__(self) -> int:
        steps, rest = divmod(len(self.micro_batches), self.per_step)
        return steps * math.ceil(self.per_step / self.processes) + math.ceil(rest / self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        micro_batches = iter(self.micro_batches)
        while step := list(islice(micro_batches, self.per_step)):
            for at in range(self.process, self.process + len(step), self.processes):
                yield step[at] if at < len(step) else step[0][:1]

    def own(self, step: int) -> int:
        """How many of this process's micro-batches in a step (counted from 0, over all epochs) are not fillers."""
        step %= math.ceil(len(self.micro_batches) / self.per_step)
        in_step = min(self.per_step, len(self.micro_batches) - step * self.per_step)
        return len(range(self.process, in_step, self.processes))


def weighing_micro_batches(trainer_class: Any, per_step: int) -> Any:
    """TRL's SFT or DPO trainer, or ours of GRPO, which makes a step of `per_step` micro-batches with other processes.

    It logs each step. The model must be wrapped so that gradients are averaged over the processes, as accelerate does
    it. A trainer with a `begin_step` makes the micro-batches of a step itself from what the collator gave, and may
    split one into several passes (`passes`). Raises `KeyError` for a loss type or a figure that is not in `MEAN_OVER`.
    """

    class Weighing(trainer_class):
        loss_is_scaled_for_ga = True  # transformers divides by the number of micro-batches otherwise

        def get_train_dataloader(self) -> DataLoaderShard:
            loader = super().get_train_dataloader()
            # Without accelerate's own division, which fills an epoch's last batches with pairs from its beginning.
            whole = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)
            processes, process = self.accelerator.num_processes, self.accelerator.process_index
            self._micro_batches = MicroBatchSampler(whole, per_step, processes, process)
            return DataLoaderShard(
                self.train_dataset,
                batch_sampler=self._micro_batches,
                collate_fn=loader.collate_fn,
                pin_memory=loader.pin_memory,
                num_workers=loader.num_workers,
                prefetch_factor=loader.prefetch_factor,
            )

        def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[Any, None]:
            batches = list(islice(epoch_iterator, num_batches))
            own = self._micro_batches.own(self.state.global_step)
            if hasattr(self, "begin_step"):
                batches = self.begin_step(batches, own)
            passes = [(_amounts(part), at < own) for at, batch in enumerate(batches) for part in _passes(batch)]
            amounts = torch.tensor([amount if counts else [0] * len(UNITS) for amount, counts in passes])
            of_step = self.accelerator.reduce(amounts.sum(0).to(device), reduction="sum").cpu()
            shares = amounts.double() / of_step.clamp(min=1)
            self._shares = iter([dict(zip(UNITS, share, strict=True)) for share in shares.tolist()])
            return batches, None

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
        ) -> Any:
            share = next(self._shares)
            first, *more = self.args.loss_type if isinstance(self.args.loss_type, list) else [self.args.loss_type]
            of_loss = share[MEAN_OVER[first]]
            if more:
                terms = zip([first, *more], self.args.loss_weights, strict=True)
                self.loss_weights = [weight * share[MEAN_OVER[term]] / (of_loss or 1.0) for term, weight in terms]
            with _by_itself(self.accelerator):
                loss = super().compute_loss(model, inputs)
            figures = self._metrics["train"]
            for figure in figures.keys() - {"num_tokens"}:
                figures[figure][-1] *= share[MEAN_OVER[figure]]
            return self.accelerator.num_processes * of_loss * loss  # the processes' gradients and losses are averaged

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            figures = self._metrics["train"]
            everyone = gather_object([dict(figures)])
            for figure in figures:
                figures[figure] = [sum(sum(own[figure]) for own in everyone)]
            super().log(logs, start_time)

    return Weighing


def _passes(batch: Any) -> list[Any]:
    passes: list[Any] = batch.get("passes", [batch])
    return passes


def _amounts(batch: Any) -> list[int]:
    """The count of each of `UNITS` in a batch of any of the trainers."""
    if "advantages" in batch:
        chosen = batch["completion_mask"][:, 1:]
        rejected = torch.zeros_like(chosen)
    elif "labels" in batch:
        chosen = batch["labels"][:, 1:] != -100  # no row begins with a target
        rejected = torch.zeros_like(chosen)
    else:
        chosen, rejected = batch["completion_mask"][:, 1:].chunk(2)
    tokens = [int(chosen.sum()), int(rejected.sum())]
    return [len(chosen), sum(tokens), *tokens]


@contextmanager
def _by_itself(accelerator: Any) -> Iterator[None]:
    # TRL gathers each figure of a micro-batch from all processes, which need not have the same number of pairs.
    def own(values: Any) -> Any:
        return values

    def reduced(values: Any, **_: Any) -> Any:
        return values

    accelerator.gather = accelerator.gather_for_metrics = own
    accelerator.reduce = reduced
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics, accelerator.reduce
