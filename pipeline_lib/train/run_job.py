"""Run a training job, in any process."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline_lib.train.job import Place, TrainingJob

if TYPE_CHECKING:
    import torch


def run_job(job: TrainingJob, place: Place, tables: Mapping[str, pa.Table], device: "torch.device") -> pa.Table:
    """Train on `device`, write the adapter to `place.save_to`, return the log (`train_dpo`, `train_sft`,
    `train_grpo`).

    `tables` are those of the loss by name: `pairs`, for DPO also `reference`, for GRPO `units` alone.
    """
    import torch

    from pipeline_lib.train.dpo import train_dpo
    from pipeline_lib.train.grpo import train_grpo
    from pipeline_lib.train.sft import train_sft
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_base

    # A model that is shared among GPUs, because it does not fit one, is moved there part by part.
    whole = not (place.processes and place.processes.fsdp)
    vlm = load_base(job.base, device if whole else torch.device("cpu"), place.store)._replace(device=device)
    train: Any = {"dpo": train_dpo, "sft": train_sft, "grpo": train_grpo}[job.loss.loss]
    log: pa.Table = train(
        vlm,
        render_chat(vlm.processor, job.prompt),
        open_image=job.images.opener(job.base.resize_px),
        **tables,
        job=job,
        place=place,
    )
    return log
