"""GRPO that reads an image once for all its answers: in sampling, in the reference's pass and in the update.

TRL's trainer encodes the image of a prompt once an answer and computes its prefix once an answer, in each of the three.
Here a step samples all K answers to an image behind one prefill (`rollout`), and an image is one row
`[prefix | answer 1 | .. | answer K]` (`prefix_rows`) for policy and reference (decision 19). The loss and its figures
are TRL's own code. A sample is trained on once, by the weights that gave it, so log-probabilities of an older policy
are not needed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import Trainer, set_seed
from trl import GRPOTrainer

from pipeline_lib.config.base import Grpo
from pipeline_lib.train.prefix_rows import collate_prompts, put_behind
from pipeline_lib.train.prefix_shared import FEATURES, sharing_prefix
from pipeline_lib.train.rewards import RewardFunction, advantages
from pipeline_lib.train.rollout import SampledUnit, figures_of, mean_figures, sample_units
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate.attention import attention_behind_prefix
from pipeline_lib.vlm.generate.features import join_features
from pipeline_lib.vlm.load import Vlm

PASSES = "passes"
"""The part of a micro-batch that holds its passes, each with some of the answers to all its images."""

Batch = dict[str, Any]


class PrefixSharedGRPOTrainer(GRPOTrainer):
    """TRL's trainer of LoRA adapters on vision data, for rows of `unit_rows` (`pipeline_lib.train.grpo`).

    Made to run within `weighing_micro_batches`, which calls `begin_step`. `reward` is given whole units, which are
    never split over processes. Does not evaluate, and takes no FSDP, because sampling calls the bare model.
    """

    def __init__(self, *, settings: Grpo, chat: Chat, reward: RewardFunction, max_length: int, **options: Any):
        super().__init__(reward_funcs=_computed_elsewhere, **options)
        set_seed(self.args.seed)  # TRL has given each process a seed of its own, and so an order of its own
        self.settings, self.chat, self.reward, self.max_length = settings, chat, reward, max_length
        self.current_gradient_accumulation_steps = 1
        self._figures: dict[str, float] = {}
        self._begun = 0.0

    def get_train_dataloader(self) -> Any:
        """Each unit once an epoch, where TRL's loader repeats a row for each answer."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            # TRL counts answers, and refuses a number that is no multiple of K.
            batch_size=self._train_batch_size // self.settings.answers,
            sampler_fn=lambda rows: Trainer._get_train_sampler(self, rows),  # whose order follows from seed and epoch
            is_training=True,
        )

    def begin_step(self, micro_batches: list[list[dict[str, Any]]], own: int) -> list[Batch]:
        """Sample and reward all units of a step, of which the micro-batches from `own` on are fillers."""
        self._begun = time.perf_counter()
        with self._sampling() as vlm:
            sampled = [
                sample_units(
                    vlm,
                    self.chat,
                    units,
                    self.settings,
                    self.reward,
                    seed=self.args.seed,
                    step=self.state.global_step,
                    max_length=self.max_length,
                )
                for units in micro_batches
            ]
        of_step = gather_object([figures_of([unit for units in sampled[:own] for unit in units])])
        self._figures = mean_figures(of_step)
        self._sampled_tokens = sum(figures["answer_tokens"][0] for figures in of_step if figures)
        self._sampled_images = sum(figures["no_variance_share"][1] for figures in of_step if figures)
        return [self._micro_batch(units) for units in sampled]

    @contextmanager
    def _sampling(self) -> Iterator[Vlm]:
        # Gradient checkpointing drops the cache in training mode.
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        try:
            yield Vlm(model.get_base_model(), self.processing_class, self.accelerator.device)
        finally:
            model.train()

    def _micro_batch(self, units: list[SampledUnit]) -> Batch:
        rows = [row for unit in units for row in unit.rows]
        of_images = torch.cat([advantages(unit.total, self.settings.scale_rewards) for unit in units]).float()
        prompts = collate_prompts(self.processing_class, rows)
        del prompts["pixel_values"]  # their features are known
        count = self.settings.answers_per_pass or self.settings.answers
        passes = []
        for first in range(0, self.settings.answers, count):
            some = slice(first, first + count)
            batch: Batch = put_behind(self.processing_class, prompts, [row.answers[some] for row in rows])
            batch["advantages"] = of_images[:, some].T.flatten()  # in the order of the batch's answers
            passes.append(batch)
        return {PASSES: passes, FEATURES: join_features([image for unit in units for image in unit.features])}

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        return inputs  # `training_step` has moved them to the device; TRL's would sample

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: transformers would count the tokens of one row an answer."""
        return 0

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Tensor | None = None) -> Tensor:
        """A pass for some of the answers at a time; each carries its share of the prefix's gradient."""
        passes = Trainer._prepare_inputs(self, inputs[PASSES])
        with attention_behind_prefix(self.model):  # in the backward pass too, where layers may run once more
            losses = []
            for at, batch in enumerate(passes, 1):
                with nullcontext() if at == len(passes) else self.accelerator.no_sync(model):
                    # Without TRL's, which counts the passes to know when to sample.
                    losses.append(Trainer.training_step(self, model, {**batch, FEATURES: inputs[FEATURES]}))
        return torch.stack(losses).sum()

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        ids, mask = inputs["input_ids"], inputs["completion_mask"]
        answers = {
            "prompt_ids": ids[:, :1],  # one column stands for the prefix
            "prompt_mask": torch.ones_like(ids[:, :1]),
            "completion_ids": ids[:, 1:],
            "completion_mask": mask[:, 1:],
            "advantages": inputs["advantages"],
            "num_items_in_batch": mask.sum() * self.accelerator.num_processes,  # TRL divides by the latter
        }
        # All passes that TRL's code makes then run on the rows and return states of the answers.
        with sharing_prefix(self._inner(), inputs), self._mean_over_pass():
            if self.beta:
                answers["ref_per_token_logps"] = self._reference_logps(answers)
            loss: Tensor = super()._compute_loss(model, answers)
        for name in ("low_min", "high_max"):  # the log has means only
            del self._metrics["train"][f"clip_ratio/{name}"]
        return loss

    @torch.no_grad()
    def _reference_logps(self, answers: dict[str, Tensor]) -> Tensor:
        """Of the base without adapter, on the same rows and features."""
        model = self.accelerator.unwrap_model(self.model)
        ids = torch.cat([answers["prompt_ids"], answers["completion_ids"]], dim=1)
        seen = torch.cat([answers["prompt_mask"], answers["completion_mask"]], dim=1)
        with model.disable_adapter():
            logps: Tensor
            logps, _, _ = self._get_per_token_logps_and_entropies(model, ids, seen, answers["completion_ids"].shape[1])
        return logps

    @contextmanager
    def _mean_over_pass(self) -> Iterator[None]:
        # TRL divides by the number of micro-batches; here each counts with its share (`micro_batches`).
        number: int = self.current_gradient_accumulation_steps
        self.current_gradient_accumulation_steps = 1
        try:
            yield
        finally:
            self.current_gradient_accumulation_steps = number

    def _inner(self) -> Any:
        return self.accelerator.unwrap_model(self.model).get_base_model().model

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's figures and those of the samples."""
        if "loss" in logs:
            seconds = time.perf_counter() - self._begun
            speed = {"tokens_per_s": self._sampled_tokens / seconds, "images_per_s": self._sampled_images / seconds}
            logs = logs | self._figures | speed
        super().log(logs, start_time)


def _computed_elsewhere(**_: Any) -> list[float]:
    raise AssertionError("rewards are those of `rollout`")
