"""How several processes share the micro-batches of an optimiser step, so that it is the step of a single process.

One process makes a step of micro-batches, each a mean over its pairs, and takes their mean. Here N processes take them
in turn. Accelerate's own division ends an epoch otherwise: it fills the last, smaller batches up with pairs from the
beginning, and they would count.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from torch import Tensor
from torch.utils.data import BatchSampler


class Dealt(BatchSampler):
    """Of the micro-batches of each step every N-th, from the process's own number on.

    A process that is short of one in an epoch's last step gets a filler of one pair, which has to count nothing: all
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

    def counting(self, step: int) -> tuple[int, int]:
        """Micro-batches that an epoch's step has in all, and how many of them this process has."""
        in_all = min(self.per_step, len(self.micro_batches) - step * self.per_step)
        return in_all, len(range(self.process, in_all, self.processes))


def sharing_steps(trainer_class: Any, per_step: int) -> Any:
    """One of TRL's trainers as one of N processes that make steps of `per_step` micro-batches together.

    Loss, gradient and log are those of a single process but for rounding: a figure of the log is the mean of the
    micro-batches' figures, whoever computed them. The model must be wrapped so that gradients are averaged over the
    processes, as accelerate does it.
    """

    class Sharing(trainer_class):
        def get_train_dataloader(self) -> DataLoaderShard:
            loader = super().get_train_dataloader()
            self._dealt = Dealt(
                loader.batch_sampler.batch_sampler,  # of accelerate's own division: the one of a single process
                per_step,
                self.accelerator.num_processes,
                self.accelerator.process_index,
            )
            return DataLoaderShard(
                self.train_dataset,
                batch_sampler=self._dealt,
                collate_fn=loader.collate_fn,
                pin_memory=loader.pin_memory,
                num_workers=loader.num_workers,
                prefetch_factor=loader.prefetch_factor,
            )

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
            steps = math.ceil(len(self._dealt.micro_batches) / per_step)  # in an epoch
            in_all, self._own = self._dealt.counting(self.state.global_step % steps)
            self._weight = len(batch_samples) * self._dealt.processes / in_all
            self._done = 0
            for filler in batch_samples[self._own :]:
                if "labels" in filler:
                    filler["labels"] = torch.full_like(filler["labels"], -100)
            return super()._get_num_items_in_batch(batch_samples, device)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
        ) -> Any:
            logged = {figure: list(values) for figure, values in self._metrics["train"].items()}
            with _by_itself(self.accelerator):
                loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            self._done += 1
            if self._done > self._own:
                self._metrics["train"].clear()
                self._metrics["train"].update(logged)
                return 0.0 * loss
            # A loss over the tokens of the whole step is right as it is.
            return loss if num_items_in_batch is not None else self._weight * loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            everyone: list[Any] = [None] * self._dealt.processes
            torch.distributed.all_gather_object(everyone, dict(self._metrics["train"]))
            self._metrics["train"].clear()
            for figure in everyone[0]:
                self._metrics["train"][figure] = [value for own in everyone for value in own.get(figure, [])]
            super().log(logs, start_time)

    return Sharing


@contextmanager
def _by_itself(accelerator: Any) -> Iterator[None]:
    # TRL gathers each figure of a micro-batch from all processes, which need not have the same number of pairs.
    def own(values: Any) -> Any:
        return values

    accelerator.gather = accelerator.gather_for_metrics = own
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics
