"""One training as values that another process can read, and how it is done in any process."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline_lib.config.base import Training
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.vlm.model_ref import ModelRef

if TYPE_CHECKING:
    import torch

    from pipeline_lib.train.trainer import Processes


class Learning(BaseModel):
    """One training of one adapter, without its tables (see `pipeline_lib.train.trainer.Job`)."""

    model_config = ConfigDict(frozen=True)

    method: Literal["dpo", "sft"]
    options: dict[str, Any] = {}  # of the method
    config: Training
    learning_rate: float
    prompt: Prompt
    model: ModelRef
    image_set: ImageSet
    start: ArtifactRef | None
    seed: int
    store: str
    address: str
    checkpoint_every: int
    gradient_checkpointing: bool
    decode_workers: int = 0
    what: str


def learn(
    learning: Learning,
    tables: Mapping[str, pa.Table],
    save_to: Path,
    device: "torch.device",
    processes: "Processes | None" = None,
) -> pa.Table:
    """Train on `device`, write the adapter to the folder `save_to`, return the log (`train_dpo`, `train_sft`).

    `tables` are the method's: `pairs`, and whatever else it takes by name. `processes` when this is one of several.
    """
    import torch

    from pipeline_lib.train.dpo import train_dpo
    from pipeline_lib.train.sft import train_sft
    from pipeline_lib.vlm.adapter import fetch_adapter
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_base

    store, model = ArtifactStore(learning.store), learning.model
    # A model that is to be shared among GPUs, because it does not fit one, is moved there part by part.
    vlm = load_base(model, torch.device("cpu") if processes and processes.fsdp else device)._replace(device=device)
    job: dict[str, Any] = {"processes": processes} if processes else {}
    with tempfile.TemporaryDirectory(prefix="whyscore-start-") as folder:
        if learning.start is not None:
            fetch_adapter(store, learning.start, Path(folder))
        method: Any = {"dpo": train_dpo, "sft": train_sft}[learning.method]
        log: pa.Table = method(
            vlm,
            render_chat(vlm.processor, learning.prompt.text),
            open_image=learning.image_set.opener(model.resize_px),
            **tables,
            **learning.options,
            config=learning.config,
            learning_rate=learning.learning_rate,
            start=Path(folder) if learning.start is not None else None,
            seed=learning.seed,
            store=store,
            address=learning.address,
            checkpoint_every=learning.checkpoint_every,
            gradient_checkpointing=learning.gradient_checkpointing,
            decode_workers=learning.decode_workers,
            base_name=model.name,
            what=learning.what,
            save_to=save_to,
            **job,
        )
    return log
