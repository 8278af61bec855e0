"""What the training stages share."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline_lib import schemas
from pipeline_lib.data.photographs import Photographs
from pipeline_lib.recipe import Training
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt
from tasks.stage import Work


def train(
    work: Work,
    config: Training,
    prompt: Prompt,
    model: ModelRef,
    photographs: Photographs,
    pairs: ArtifactRef,
    table: str,
    learning_rate: float,
    seed: int,
    iteration: int,
    *,
    learn: Callable[..., pa.Table] | None = None,
    log_schema: pa.Schema = schemas.TRAINING_LOG,
) -> None:
    """Train on one table of preference pairs, with DPO unless `learn` is given; publishes adapter and log."""
    from pipeline_lib.device import pick_device
    from pipeline_lib.train.dpo import train_dpo
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_base

    vlm = load_base(model, pick_device(work.runtime.device))
    with tempfile.TemporaryDirectory(prefix="whyscore-start-") as folder:
        start = None
        if model.adapter is not None and config.start_from == "previous":
            start = Path(folder)
            work.store.fetch(model.adapter.address, start)
        log = (learn or train_dpo)(
            vlm,
            render_chat(vlm.processor, prompt.text),
            work.read(pairs, table),
            photographs.opener(model.resize_px),
            config=config,
            learning_rate=learning_rate * config.decay_per_iteration ** (iteration - 1),
            start=start,
            seed=seed * 1000 + iteration,  # both branches of an iteration start from the same weights
            store=work.store,
            address=work.address,
            checkpoint_every=work.runtime.checkpoint_every,
            gradient_checkpointing=work.runtime.gradient_checkpointing,
            base_name=model.name,
            what=work.label,
            save_to=work.attempt.folder,
        )
    work.write("training_log", log, log_schema)
