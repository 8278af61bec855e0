"""Batches of photographs made in processes of their own while the model computes (`runtime.decode_workers`).

They are the DataLoader's workers, so batches and their order are those of a training without them. What is missing
there: a signal to the whole process group would end them before the step is finished, and an error reaches the trainer
as the text of a traceback.
"""

import math
import multiprocessing.util
import os
import traceback
from typing import Any

from pipeline_lib.errors import WhyScoreError


def loader_arguments(workers: int, passes: int) -> dict[str, Any]:
    """The DataLoader's settings in `TrainingArguments`, for optimiser steps of so many passes (of this process).

    A step's batches are asked for all at once, before the first is computed, so workers have a whole step ready ahead;
    it lies in shared memory (`/dev/shm`).
    """
    ahead = max(2, math.ceil(passes / workers)) if workers else None
    return {"dataloader_num_workers": workers, "dataloader_prefetch_factor": ahead}


def opening_ahead(trainer_class: Any) -> Any:
    """One of TRL's trainers whose workers leave stopping to it, and fail with the errors of a training without them."""

    class OpeningAhead(trainer_class):
        def get_train_dataloader(self) -> Any:
            loader = super().get_train_dataloader()
            loader.base_dataloader.worker_init_fn = _begin  # accelerate's own object around it only passes it on
            return loader

        def train(self, *args: Any, **options: Any) -> Any:
            try:
                return super().train(*args, **options)
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # which keep the loop over the batches, and so the workers
                kind = type(error)
                if not isinstance(error, WhyScoreError):
                    raise
                raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()) from error

    return OpeningAhead


def _begin(worker: int) -> None:
    # A group of its own: whoever stops a run asks the group with SIGTERM, which the trainer answers with a checkpoint
    # at the end of its step, for which it needs its workers. They end with it, and within seconds if it is killed.
    os.setpgrp()
    # What other libraries do when Python ends (Prefect stops its threads) is not for a forked process: it fails there,
    # and a worker that was done would count as one that broke.
    multiprocessing.util.Finalize(None, os._exit, (0,), exitpriority=-100)
