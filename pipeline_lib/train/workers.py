"""Makes batches of images in other processes while the model computes (`runtime.decode_workers`).

They are the DataLoader's workers, so batches and their order are those of a training without them. Two things are
added: a signal to the whole process group does not end them before the step is finished, and an error reaches the
trainer as itself instead of as the text of a traceback.
"""

import math
import multiprocessing.util
import os
import traceback
from typing import Any

from pipeline_lib.errors import WhyScoreError


def loader_arguments(workers: int, passes: int) -> dict[str, Any]:
    """The DataLoader's settings in `TrainingArguments`, for optimiser steps of so many passes (of this process).

    All batches of a step are requested at once, before the first is computed, so workers prepare a whole step ahead, in
    shared memory (`/dev/shm`).
    """
    ahead = max(2, math.ceil(passes / workers)) if workers else None
    return {"dataloader_num_workers": workers, "dataloader_prefetch_factor": ahead}


def opening_ahead(trainer_class: Any) -> Any:
    """One of TRL's trainers whose workers leave stopping to it, with the same errors as a training without workers."""

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
    # A group of its own: SIGTERM to the run's group makes the trainer write a checkpoint
    # at the end of its step, for which it needs its workers. They end with it, and within seconds if it is killed.
    os.setpgrp()
    # Exit handlers of other libraries (Prefect stops its threads) are not for a forked process: they fail there,
    # and a finished worker would count as broken.
    multiprocessing.util.Finalize(None, os._exit, (0,), exitpriority=-100)
