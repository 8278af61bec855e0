"""Shared by all trainings of an adapter: arguments, checkpoints, resuming and a clean stop."""

import logging
import math
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer import FSDP_MODEL_NAME

from pipeline_lib.config.base import Lora
from pipeline_lib.errors import Interrupted, ModelError, StoreError
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.trackers.curves import CurveReporter
from pipeline_lib.trackers.tracker import Entry, entry_id
from pipeline_lib.train.checkpoints import MirrorCheckpoints, restore_newest
from pipeline_lib.train.job import Place, Processes, TrainingJob
from pipeline_lib.train.lora import (
    check_lora,
    keep_base_in_evaluation_mode,
    language_linears,
    lora_config,
    save_adapter,
)
from pipeline_lib.train.micro_batches import weighing_micro_batches
from pipeline_lib.train.stop import on_sigterm
from pipeline_lib.train.workers import loader_arguments, opening_ahead
from pipeline_lib.vlm.adapter import check_adapter, fetch_adapter
from pipeline_lib.vlm.load import Vlm

log = logging.getLogger("whyscore.train")


def train_adapter(
    trainer_class: Callable[..., Any],
    arguments: Callable[..., TrainingArguments],
    vlm: Vlm,
    rows: Dataset,
    job: TrainingJob,
    place: Place,
    *,
    figures: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train one LoRA adapter with one of TRL's trainers, write it to `place.save_to`, return the log, a record a step.

    `vlm` is the bare base, `rows` what the trainer's collator takes, `arguments` the trainer's own configuration class
    with whatever its loss needs, `figures` what stands beside the loss in progress lines (a figure's name in the log,
    and a word for it), `options` what the trainer takes beside what all take. A training that was killed and is resumed
    ends with the weights of an uninterrupted one. Raises `Interrupted` when the process was asked to stop (a checkpoint
    is in the store then), `ModelError` when the adapter to start from does not fit.
    """
    label, processes = place.label, place.processes
    linears = language_linears(vlm.model)
    set_seed(job.seed)  # a fresh adapter is drawn when the trainer is built
    steps = _steps(job.lora, len(rows))
    if processes and processes.fsdp:  # the language model is divided layer by layer
        os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = type(vlm.model.get_decoder().layers[0]).__name__
    with _scratch(processes) as scratch:
        progress = _ProgressCallback(label, figures, processes.asked_to_stop if processes else None)
        reporters = _reporters(job, place)
        trainer_class = weighing_micro_batches(trainer_class, steps.micro_batches)
        if place.decode_workers:
            trainer_class = opening_ahead(trainer_class)
        trainer = trainer_class(
            model=vlm.model,
            args=arguments(output_dir=scratch, **_shared_arguments(vlm, steps, job, place)),
            train_dataset=rows,
            processing_class=vlm.processor,
            peft_config=lora_config(vlm.model, job.lora.lora_rank),
            callbacks=[_Mirror(place.store, place.address), progress, *reporters],
            **(options or {}),
        )
        trainer.remove_callback(PrinterCallback)  # it prints records as dicts; WhyScore has progress lines and a table
        check_lora(trainer.model, linears)
        keep_base_in_evaluation_mode(trainer.model)
        _detach_vision(trainer.model)
        if job.start is not None:
            _load_start(trainer.model, job.start, place.store)
        resume = _restore(place, Path(scratch))
        if resume is not None:
            log.info("%s: going on from %s", label, resume.name.replace("checkpoint-", "step "))
        finished = False
        try:
            with nullcontext() if processes else on_sigterm(progress.stop):
                _train(trainer, resume, place)
            finished = not progress.stopped
        finally:
            for reporter in reporters:
                reporter.close(trainer.args, trainer.state, finished=finished)
        if progress.stopped:  # also after the last step: the run ends, and the next one reads that checkpoint
            at = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
            raise Interrupted(f"{label} stopped at {at} after SIGTERM; run the recipe again to continue")
        adapter = _adapter(trainer.model)
        if trainer.is_world_process_zero():
            save_adapter(trainer.model, place.save_to, "default", job.base.name, adapter)
        return [record for record in trainer.state.log_history if "loss" in record]


def _reporters(job: TrainingJob, place: Place) -> list[CurveReporter]:
    """A callback for each tracker, in the first process alone; a failure in one of `report_to` would end a training."""
    if not place.trackers or (place.processes and place.processes.rank):
        return []
    settings = {
        "seed": job.seed,
        "learning_rate": job.learning_rate,
        "processes": place.processes.size if place.processes else 1,
        **{f"lora.{name}": value for name, value in job.lora.model_dump().items()},
        **{f"loss.{name}": value for name, value in _leaves(job.loss.model_dump(exclude={"reward"}))},
        "artifact": place.address,
    }
    entry = Entry(entry_id(place.store.root, place.address), place.run, place.label, settings)
    return [CurveReporter(name, entry) for name in place.trackers]


def _leaves(fields: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", value


class _Steps(NamedTuple):
    """The micro-batches of an optimiser step and the pairs of each; both are the same for any number of processes."""

    micro_batches: int
    pairs: int


def _steps(lora: Lora, rows: int) -> _Steps:
    batch_size = min(lora.batch_size, rows)
    micro = math.gcd(batch_size, lora.micro_batch_size)
    return _Steps(batch_size // micro, micro)


def _shared_arguments(vlm: Vlm, steps: _Steps, job: TrainingJob, place: Place) -> dict[str, Any]:
    lora, processes = job.lora, place.processes
    passes = math.ceil(steps.micro_batches / (processes.size if processes else 1))
    return {
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": lora.schedule,
        "optim": "adamw_torch",  # with no weight decay this is Adam (A.1)
        "weight_decay": 0.0,
        "max_grad_norm": lora.max_grad_norm,
        "per_device_train_batch_size": steps.pairs,
        "gradient_accumulation_steps": passes,
        "num_train_epochs": lora.epochs,
        "max_length": None,  # nothing is cut: TRL would cut answers off without a message and train on nothing
        "gradient_checkpointing": place.gradient_checkpointing,
        "bf16": vlm.model.dtype == torch.bfloat16,
        "fp16": vlm.model.dtype == torch.float16,
        "use_cpu": vlm.device.type == "cpu",
        "save_strategy": "steps",
        "save_steps": place.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,  # the images are opened from columns that the model does not take
        "dataloader_pin_memory": vlm.device.type == "cuda",
        **loader_arguments(place.decode_workers, passes),
        "ddp_find_unused_parameters": False,  # every pass uses the whole adapter
        "seed": job.seed,
    }


@contextmanager
def _scratch(processes: Processes | None) -> Iterator[str]:
    if processes:
        yield str(processes.folder)
        return
    with tempfile.TemporaryDirectory(prefix="whyscore-training-") as folder:
        yield folder


def _restore(place: Place, scratch: Path) -> Path | None:
    """The newest checkpoint of the store, for all processes; `StoreError` when training cannot continue from it.

    The number of processes may have changed: order and position follow from the seed and the step alone, and a step
    draws nothing at random. But weights that are shared among GPUs have checkpoints of another kind.
    """
    processes = place.processes
    if processes is None or processes.rank == 0:
        restore_newest(place.store, place.address, scratch)
    if processes is not None:
        torch.distributed.barrier()
    found = next(scratch.glob("checkpoint-*"), None)
    if found is None:
        return None
    shared, wanted = (found / f"{FSDP_MODEL_NAME}.bin").exists(), bool(processes and processes.fsdp)
    where = place.store.path(place.address, "checkpoints")
    if not shared:
        check_adapter(found, where)
    if shared != wanted:
        raise StoreError(
            f"{place.label}: its newest checkpoint was written with runtime.fsdp {str(shared).lower()}; set that to"
            f" continue, or remove {where} to begin again"
        )
    return found


def _train(trainer: Any, resume: Path | None, place: Place) -> None:
    """Train; optimizer and random state of a checkpoint are read as tensors and numbers, and refused otherwise."""
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except pickle.UnpicklingError as error:
        where = place.store.path(place.address, "checkpoints")
        raise StoreError(
            f"{place.label}: {resume.name if resume else 'a checkpoint'} in {where} holds more than tensors and"
            f" numbers, so it is not used ({str(error).splitlines()[0]}). Remove that folder and run the recipe again"
        ) from error


def _adapter(model: Any) -> dict[str, torch.Tensor] | None:
    """The adapter's weights from all processes, when the model is shared among them."""
    is_shared = isinstance(model, FSDPModule)
    if not is_shared:
        return None
    return {name: weight.full_tensor() for name, weight in model.named_parameters() if "lora_" in name}


class _Mirror(MirrorCheckpoints):
    """Copies a checkpoint to the store once all processes have written their part."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()
        if args.process_index == 0:
            super().on_save(args, state, control, **more)


def _detach_vision(model: Any) -> None:
    # With gradient checkpointing, transformers asks every sub-model's inputs for gradients, the frozen vision tower's
    # too; a step would then differentiate through it for nothing.
    inner = model.get_base_model().model
    inner.get_image_features = torch.no_grad()(inner.get_image_features)


def _load_start(model: Any, start: ArtifactRef, store: ArtifactStore) -> None:
    with tempfile.TemporaryDirectory(prefix="whyscore-start-") as folder:
        fetch_adapter(store, start, Path(folder))
        weights = load_peft_weights(folder, device="cpu")
    wanted = {name for name in model.state_dict() if "lora_" in name}
    outcome = set_peft_model_state_dict(model, weights)
    missing = [name for name in outcome.missing_keys if name in wanted]
    if missing or outcome.unexpected_keys:
        raise ModelError(
            f"the adapter to start from does not fit: {len(missing)} tensors missing, {len(outcome.unexpected_keys)}"
            " unknown; was it trained on another base or with another lora_rank? (training.start_from: fresh avoids it)"
        )


class _ProgressCallback(TrainerCallback):
    """Progress lines with the loss and some figures, and a clean stop at the end of a step."""

    def __init__(self, what: str, figures: Mapping[str, str], asked: Callable[[], bool] | None):
        self.what = what
        self.figures = figures
        self.asked = asked  # of this one of several processes
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress = Progress(self.what, state.max_steps, "steps")
        self.progress.skip(state.global_step)
        for record in state.log_history:  # of an attempt before, from its checkpoint
            self._draw(record)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        newest = state.log_history[-1]
        if "loss" in newest:
            figures = [f"{word} {newest[name]:.2f}" for name, word in self.figures.items() if name in newest]
            note = ", ".join([f"loss {newest['loss']:.3f}", *figures])
            self._draw(newest)
            self.progress.advance(state.global_step - self.progress.done, note)

    def _draw(self, record: Mapping[str, Any]) -> None:
        names = {"loss": "loss", "learning_rate": "learning rate", **self.figures}
        self.progress.draw(
            record["step"],
            {
                word: float(record[name])
                for name, word in names.items()
                if name in record and not name.endswith("_per_s")
            },
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked is not None:
            asked = torch.tensor(self.asked(), dtype=torch.int32, device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)  # all stop at the same step
            self.stopped = bool(asked)
        if self.stopped:
            control.should_save = control.should_training_stop = True
