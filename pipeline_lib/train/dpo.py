"""Direct Preference Optimization of one LoRA adapter on preference pairs (sections 3.2 and 4.2).

The reference is the base model without any adapter, in every iteration. The trainer is TRL's own.
"""

import logging
import math
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from PIL.Image import Image
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from trl import DPOConfig, DPOTrainer

from pipeline_lib.errors import DataError, Interrupted, ModelError
from pipeline_lib.progress import Progress
from pipeline_lib.recipe import Training
from pipeline_lib.store import ArtifactStore
from pipeline_lib.train.checkpoints import MirrorCheckpoints, restore_newest
from pipeline_lib.train.lora import check_lora, language_linears, lora_config, save_adapter
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.load import Vlm

log = logging.getLogger("whyscore.train")


def train_dpo(
    vlm: Vlm,
    chat: Chat,
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    config: Training,
    learning_rate: float,
    start: Path | None,
    seed: int,
    store: ArtifactStore,
    address: str,
    checkpoint_every: int,
    gradient_checkpointing: bool,
    base_name: str,
    what: str,
    save_to: Path,
) -> pa.Table:
    """Train one adapter, write it to `save_to` and return its log in `schemas.TRAINING_LOG`, a row a step.

    `vlm` is the bare base; `start` is a folder with the adapter to begin from (None: a fresh one, whose random half
    `seed` decides). Checkpoints go to the store below `address`; the newest valid one there is resumed from, and
    training then ends with the weights of an uninterrupted run. Raises `DataError` naming rows that are too long,
    `Interrupted` when the process was asked to stop (a checkpoint is in the store then).
    """
    pairs = usable_pairs(pairs, config.max_length)
    batch_size = min(config.batch_size, pairs.num_rows)
    micro = math.gcd(batch_size, config.micro_batch_size)
    linears = language_linears(vlm.model)
    set_seed(seed)  # a fresh adapter is drawn when the trainer is built
    with tempfile.TemporaryDirectory(prefix="whyscore-training-") as scratch:
        progress = _ProgressCallback(what)
        trainer = DPOTrainer(
            model=vlm.model,
            args=DPOConfig(
                output_dir=scratch,
                learning_rate=learning_rate,
                lr_scheduler_type=config.schedule,
                optim="adamw_torch",  # with no weight decay this is Adam (A.1)
                weight_decay=0.0,
                max_grad_norm=config.max_grad_norm,
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=batch_size // micro,
                num_train_epochs=config.epochs,
                beta=config.beta,
                loss_type=["sigmoid", "sft"] if config.sft_weight else ["sigmoid"],
                loss_weights=[1.0, config.sft_weight] if config.sft_weight else None,
                max_length=None,  # nothing is cut: TRL would cut answers off in silence and train on nothing
                gradient_checkpointing=gradient_checkpointing,
                bf16=vlm.model.dtype == torch.bfloat16,
                fp16=vlm.model.dtype == torch.float16,
                use_cpu=vlm.device.type == "cpu",
                save_strategy="steps",
                save_steps=checkpoint_every,
                save_total_limit=2,
                logging_steps=1,
                logging_nan_inf_filter=False,
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,  # the images are opened from columns the model does not know
                dataloader_pin_memory=vlm.device.type == "cuda",
                seed=seed,
            ),
            train_dataset=_dataset(pairs, chat, open_image),
            processing_class=vlm.processor,
            peft_config=lora_config(vlm.model, config.lora_rank),
            callbacks=[MirrorCheckpoints(store, address), progress],
        )
        _silence(trainer)
        check_lora(trainer.model, linears)
        _detach_vision(trainer.model)
        if start is not None:
            _load_start(trainer.model, start)
        resume = restore_newest(store, address, Path(scratch))
        if resume is not None:
            log.info("%s: going on from %s", what, resume.name.replace("checkpoint-", "step "))
        with _stop_on_sigterm(progress):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if progress.stopped and trainer.state.global_step < trainer.state.max_steps:
            at = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
            raise Interrupted(f"{what} was asked to stop and did at {at}; run the recipe again to go on from there")
        save_adapter(trainer.model, save_to, "default", base_name)
        return _training_log(trainer.state.log_history)


def usable_pairs(pairs: pa.Table, max_length: int) -> pa.Table:
    """Pairs that can be trained on: rows in which either explanation is empty are left out, counted in the log.

    Raises `DataError` naming the rows that are longer than `max_length` tokens, and when no row is left.
    """
    rows = pairs.select(
        ["image", "chosen", "rejected", "prompt_tokens", "chosen_tokens", "rejected_tokens"]
    ).to_pylist()
    long = [
        f"{row['image']}: {length} tokens"
        for row in rows
        if (length := row["prompt_tokens"] + max(row["chosen_tokens"], row["rejected_tokens"]) + 1) > max_length
    ]
    if long:
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise DataError(
            f"{len(long)} row(s) are longer than training.max_length = {max_length}: {', '.join(long[:5])}{more};"
            " raise it, or lower model.resize_px or model.max_new_tokens"
        )
    keep = [not (_is_empty(row["chosen"]) or _is_empty(row["rejected"])) for row in rows]
    if not any(keep):
        raise DataError("no pair has two explanations; the model that generated them has collapsed, see its parse rate")
    if not all(keep):
        log.warning("%d of %d pairs are left out of training: an explanation is empty", keep.count(False), len(keep))
    return pairs.filter(pa.array(keep))


def _is_empty(answer: str) -> bool:
    return not answer.partition("#Explain:")[2].strip()


def _dataset(pairs: pa.Table, chat: Chat, open_image: Callable[[str, str], Image]) -> Dataset:
    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        def answers(side: str) -> list[str]:
            finished = batch[f"{side}_finished"]
            return [chat.answer(text, finished=end) for text, end in zip(batch[side], finished, strict=True)]

        return {
            "image": [open_image(*key) for key in zip(batch["image"], batch["image_sha256"], strict=True)],
            "prompt": batch["prompt"],
            "chosen": answers("chosen"),
            "rejected": answers("rejected"),
        }

    columns = pairs.select(
        ["image", "image_sha256", "prompt", "chosen", "rejected", "chosen_finished", "rejected_finished"]
    )
    return Dataset(columns.combine_chunks()).with_transform(rows)


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

    def __init__(self, what: str):
        self.what = what
        self.stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress = Progress(self.what, state.max_steps, "steps")
        self.progress.skip(state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        newest = state.log_history[-1]
        if "loss" in newest:
            note = f"loss {newest['loss']:.3f}, accuracy {newest['rewards/accuracies']:.2f}"
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


def _silence(trainer: DPOTrainer) -> None:
    # The trainer prints every log record as a Python dict; ours are progress lines and a table in the store.
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _training_log(history: list[dict[str, Any]]) -> pa.Table:
    records = [record for record in history if "loss" in record]
    return pa.table(
        {
            "step": [record["step"] for record in records],
            "loss": [float(record["loss"]) for record in records],
            "learning_rate": [float(record["learning_rate"]) for record in records],
            "grad_norm": [float(record["grad_norm"]) for record in records],
            "reward_margin": [float(record["rewards/margins"]) for record in records],
            "reward_accuracy": [float(record["rewards/accuracies"]) for record in records],
            "chosen_logp": [float(record["logps/chosen"]) for record in records],
            "rejected_logp": [float(record["logps/rejected"]) for record in records],
        }
    )
