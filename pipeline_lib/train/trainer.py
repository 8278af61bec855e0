"""What every training of an adapter shares, whatever its loss: arguments, checkpoints, resuming, a clean stop."""

import logging
import math
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict

import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from pipeline_lib.errors import Interrupted, ModelError
from pipeline_lib.progress import Progress
from pipeline_lib.recipe import Training
from pipeline_lib.store import ArtifactStore
from pipeline_lib.train.checkpoints import MirrorCheckpoints, restore_newest
from pipeline_lib.train.lora import check_lora, language_linears, lora_config, save_adapter
from pipeline_lib.vlm.load import Vlm

log = logging.getLogger("whyscore.train")


class Job(TypedDict):
    """One training of one adapter: how, from where, and where its checkpoints and its result go."""

    config: Training
    learning_rate: float  # of this iteration: the decay is in it
    start: Path | None  # folder with the adapter to begin from; None: a fresh one, whose random half `seed` decides
    seed: int
    store: ArtifactStore
    address: str  # checkpoints go to the store below it, and the newest valid one there is resumed from
    checkpoint_every: int  # optimiser steps
    gradient_checkpointing: bool
    base_name: str  # of the base, as the recipe gives it
    what: str  # this training's name in progress lines and errors
    save_to: Path  # folder that the adapter is written to


def train_adapter(
    trainer_class: Callable[..., Any],
    arguments: Callable[..., TrainingArguments],
    vlm: Vlm,
    rows: Dataset,
    job: Job,
    *,
    accuracy: str,
) -> list[dict[str, Any]]:
    """Train one LoRA adapter with one of TRL's trainers, write it to `save_to`, return the log, a record a step.

    `vlm` is the bare base, `rows` what the trainer's collator takes, `arguments` the trainer's own configuration class
    with whatever its loss needs, `accuracy` the name of the figure beside the loss in progress lines. A training that
    was killed and is resumed ends with the weights of an uninterrupted one. Raises `Interrupted` when the process was
    asked to stop (a checkpoint is in the store then), `ModelError` when the adapter to start from does not fit.
    """
    config, what = job["config"], job["what"]
    linears = language_linears(vlm.model)
    set_seed(job["seed"])  # a fresh adapter is drawn when the trainer is built
    with tempfile.TemporaryDirectory(prefix="whyscore-training-") as scratch:
        progress = _ProgressCallback(what, accuracy)
        trainer = trainer_class(
            model=vlm.model,
            args=arguments(output_dir=scratch, **_shared_arguments(vlm, len(rows), job)),
            train_dataset=rows,
            processing_class=vlm.processor,
            peft_config=lora_config(vlm.model, config.lora_rank),
            callbacks=[MirrorCheckpoints(job["store"], job["address"]), progress],
        )
        trainer.remove_callback(PrinterCallback)  # prints records as dicts; ours are progress lines and a table
        check_lora(trainer.model, linears)
        _detach_vision(trainer.model)
        if job["start"] is not None:
            _load_start(trainer.model, job["start"])
        resume = restore_newest(job["store"], job["address"], Path(scratch))
        if resume is not None:
            log.info("%s: going on from %s", what, resume.name.replace("checkpoint-", "step "))
        with _stop_on_sigterm(progress):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if progress.stopped and trainer.state.global_step < trainer.state.max_steps:
            at = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
            raise Interrupted(f"{what} was asked to stop and did at {at}; run the recipe again to go on from there")
        save_adapter(trainer.model, job["save_to"], "default", job["base_name"])
        return [record for record in trainer.state.log_history if "loss" in record]


def _shared_arguments(vlm: Vlm, rows: int, job: Job) -> dict[str, Any]:
    config = job["config"]
    batch_size = min(config.batch_size, rows)
    micro = math.gcd(batch_size, config.micro_batch_size)
    return {
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": config.schedule,
        "optim": "adamw_torch",  # with no weight decay this is Adam (A.1)
        "weight_decay": 0.0,
        "max_grad_norm": config.max_grad_norm,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch_size // micro,
        "num_train_epochs": config.epochs,
        "max_length": None,  # nothing is cut: TRL would cut answers off in silence and train on nothing
        "gradient_checkpointing": job["gradient_checkpointing"],
        "bf16": vlm.model.dtype == torch.bfloat16,
        "fp16": vlm.model.dtype == torch.float16,
        "use_cpu": vlm.device.type == "cpu",
        "save_strategy": "steps",
        "save_steps": job["checkpoint_every"],
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,  # the images are opened from columns the model does not know
        "dataloader_pin_memory": vlm.device.type == "cuda",
        "seed": job["seed"],
    }


def _detach_vision(model: Any) -> None:
    # With gradient checkpointing, transformers asks every sub-model's inputs for gradients, the frozen vision tower's
    # too; a step would then differentiate through it for nothing.
    inner = model.get_base_model().model
    inner.get_image_features = torch.no_grad()(inner.get_image_features)


def _load_start(model: Any, folder: Path) -> None:
    wanted = {name for name in model.state_dict() if "lora_" in name}
    outcome = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    missing = [name for name in outcome.missing_keys if name in wanted]
    if missing or outcome.unexpected_keys:
        raise ModelError(
            f"the adapter to start from does not fit: {len(missing)} tensors missing, {len(outcome.unexpected_keys)}"
            " unknown; was it trained on another base or with another lora_rank? (training.start_from: fresh avoids it)"
        )


class _ProgressCallback(TrainerCallback):
    """Progress lines with the loss, and a clean stop at the end of a step."""

    def __init__(self, what: str, accuracy: str):
        self.what = what
        self.accuracy = accuracy
        self.stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress = Progress(self.what, state.max_steps, "steps")
        self.progress.skip(state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        newest = state.log_history[-1]
        if "loss" in newest:
            note = f"loss {newest['loss']:.3f}, accuracy {newest[self.accuracy]:.2f}"
            self.progress.advance(state.global_step - self.progress.done, note)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopped:
            control.should_save = control.should_training_stop = True


@contextmanager
def _stop_on_sigterm(progress: _ProgressCallback) -> Iterator[None]:
    """Turn SIGTERM into a stop with a checkpoint at the end of the running step."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        log.warning("asked to stop: finishing the running step, then writing a checkpoint")
        progress.stopped = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
