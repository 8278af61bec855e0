"""Group Relative Policy Optimization of one LoRA adapter on units of images, with rewards that a method computes.

The policy samples K answers to each image of a unit, the method's reward function sees the unit with all its answers
(`rewards`), and an answer's advantage is its reward beside those of the same image. The reference of the KL divergence
is the base without adapter.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
from datasets import Dataset
from PIL.Image import Image
from trl import GRPOConfig

from pipeline_lib.config.base import Grpo
from pipeline_lib.errors import DataError, ModelError
from pipeline_lib.train.job import GRPO, Place, TrainingJob
from pipeline_lib.train.pairs import lazy_rows
from pipeline_lib.train.prefix_shared_grpo import PrefixSharedGRPOTrainer
from pipeline_lib.train.rewards import load_reward
from pipeline_lib.train.trainer import train_adapter
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate.attention import why_not_shared
from pipeline_lib.vlm.load import Vlm

FIGURES = {
    "reward": "reward",
    "kl": "KL",
    "parse_rate": "parsed",
    "no_variance_share": "without variance",
    "images_per_s": "images/s",
    "tokens_per_s": "tokens/s",
}
"""Of a progress line: the name in the log, and the word for people."""


def train_grpo(
    vlm: Vlm,
    chat: Chat,
    units: pa.Table,
    open_image: Callable[[str, str], Image],
    job: TrainingJob,
    place: Place,
) -> pa.Table:
    """Train one adapter on units and return its log in `GRPO_LOG`, a row a step.

    A unit is a row with `images` (a list of `image`, `image_sha256`), `prompt` (rendered, for one image) and whatever
    columns the reward function reads. `job.lora.batch_size` and `micro_batch_size` count units. See `train_adapter`
    for what is written, resumed and raised, `sample_units` for rows that are too long and rewards that do not fit.
    Raises `ModelError` for a model that cannot share a prefix, for FSDP, and for another number of processes than the
    job's.
    """
    assert isinstance(job.loss, GRPO)
    check_possible(vlm, job, place)
    history = train_adapter(
        PrefixSharedGRPOTrainer,
        partial(grpo_arguments, job.loss.settings),
        vlm,
        unit_rows(units, open_image),
        job,
        place,
        figures=FIGURES,
        options={
            "settings": job.loss.settings,
            "chat": chat,
            "reward": load_reward(job.loss.reward),
            "max_length": job.lora.max_length,
        },
    )
    return log_table(history)


def check_possible(vlm: Vlm, job: TrainingJob, place: Place) -> None:
    """Raise `ModelError` for what GRPO cannot do here, before anything is computed."""
    assert isinstance(job.loss, GRPO)
    reason = why_not_shared(vlm.model, job.lora.max_length)
    if reason is not None:
        raise ModelError(f"{place.label}: GRPO needs a model whose answers can share a prefix: {reason}")
    if place.processes and place.processes.fsdp:
        raise ModelError(f"{place.label}: GRPO cannot sample from shared weights; set runtime.fsdp to false")
    size = place.processes.size if place.processes else 1
    if size != job.loss.processes:
        raise ModelError(
            f"{place.label}: its key says {job.loss.processes} training process(es), and there are {size};"
            " what is sampled depends on the number, so the stage has to take it from runtime.training_processes"
        )


def unit_rows(units: pa.Table, open_image: Callable[[str, str], Image]) -> Dataset:
    """Rows for the trainer: the opened `images` and `prompt` of a unit, its place `at` in the table, and `unit`.

    Raises `DataError` when the table has no column of images or prompts.
    """
    lacking = {"images", "prompt"} - set(units.column_names)
    if lacking:
        raise DataError(
            f"the table of units lacks {', '.join(sorted(lacking))}; it has {', '.join(units.column_names)}"
        )
    numbered = units.append_column(_AT, pa.array(range(units.num_rows)))

    def fields(row: dict[str, Any]) -> dict[str, Any]:
        return {"at": row[_AT], "unit": {name: value for name, value in row.items() if name != _AT}}

    return lazy_rows(numbered, open_image, fields)


_AT = "place in the table of units"


def grpo_arguments(settings: Grpo, *, per_device_train_batch_size: int, **shared: Any) -> GRPOConfig:
    """TRL's configuration; each of its defaults that can change a result is set here."""
    del shared["max_length"]  # GRPO's rows are checked when their lengths are known
    return GRPOConfig(
        **shared,
        per_device_train_batch_size=per_device_train_batch_size * settings.answers,
        num_generations=settings.answers,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=0,
        min_p=None,
        repetition_penalty=1.0,
        beta=settings.beta,
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        # On-policy: each sample is trained on once, in the step that draws it.
        num_iterations=1,
        steps_per_generation=1,
        epsilon=0.2,
        epsilon_high=None,
        delta=None,
        importance_sampling_level="token",
        use_bias_correction_kl=False,  # the plain estimator exp(d) - d - 1 of the reference's distance d
        mask_truncated_completions=False,
        top_entropy_quantile=1.0,
        entropy_coef=0.0,
        off_policy_mask_threshold=None,
        disable_dropout=False,  # the adapter has none
        use_vllm=False,
        log_completions=False,
    )


def log_table(history: list[dict[str, Any]]) -> pa.Table:
    """The trainer's records in `GRPO_LOG`."""
    columns = {
        "loss": "loss",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
        "reward": "reward",
        "kl": "kl",
        "entropy": "entropy",
        "clip_share": "clip_ratio/region_mean",
    }
    same = ("no_variance_share", "parse_rate", "answer_tokens", "truncated_share")
    parts = [
        [
            {"part": name.removeprefix("rewards/"), "mean": value}
            for name, value in sorted(record.items())  # as they are in a checkpoint, whatever their order was before
            if name.startswith("rewards/")
        ]
        for record in history
    ]
    return pa.table(
        {
            "step": [record["step"] for record in history],
            **{column: [float(record.get(name, 0.0)) for record in history] for column, name in columns.items()},
            "reward_parts": parts,
            "longest_answer_tokens": [int(record["longest_answer_tokens"]) for record in history],
            **{name: [float(record[name]) for record in history] for name in same},
        }
    )
