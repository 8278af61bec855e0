"""Direct Preference Optimization of one LoRA adapter on preference pairs (sections 3.2 and 4.2).

The reference is the base model without any adapter, in every iteration; its log-probabilities were computed before
(`reference`). The loss is TRL's own; its trainer computes the prefix of a pair once (`prefix_shared`), or several times
for a model that does not allow that.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
from PIL.Image import Image
from trl import DPOConfig

from pipeline_lib.train.chosen_likelihood import with_chosen_likelihood
from pipeline_lib.train.job import DPO, Place, TrainingJob
from pipeline_lib.train.pairs import check_lengths, lazy_rows, render_answer
from pipeline_lib.train.prefix_rows import PAIR
from pipeline_lib.train.reference import with_reference
from pipeline_lib.train.stored_reference import REFERENCE, FastDPOTrainer, StoredReferenceDPOTrainer
from pipeline_lib.train.trainer import train_adapter
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate.attention import why_not_shared
from pipeline_lib.vlm.load import Vlm

log = logging.getLogger("whyscore.train")


def train_dpo(
    vlm: Vlm,
    chat: Chat,
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    reference: pa.Table,
    job: TrainingJob,
    place: Place,
) -> pa.Table:
    """Train one adapter on `PREFERENCE_PAIRS` and return its log in `TRAINING_LOG`, a row a step.

    `vlm` is the bare base, `reference` the `REFERENCE_LOGPS` of all answers. See `train_adapter` for what is
    written, resumed and raised, `check_lengths` for pairs that are refused, `with_reference` for those without a
    reference.
    """
    assert isinstance(job.loss, DPO)
    loss = job.loss
    reason = why_not_shared(vlm.model, job.lora.max_length)
    if reason is not None:
        log.warning("%s: TRL's own trainer is used, two to four times slower: %s", place.label, reason)
    check_lengths(pairs, job.lora.max_length)

    def fields(pair: dict[str, Any]) -> dict[str, Any]:
        return {side: render_answer(chat, pair, side) for side in PAIR} | {name: pair[name] for name in REFERENCE}

    trainer_class = FastDPOTrainer if reason is None else StoredReferenceDPOTrainer
    history = train_adapter(
        with_chosen_likelihood(trainer_class, loss.chosen_logp_weight),
        partial(
            DPOConfig,
            beta=loss.beta,
            loss_type=["sigmoid", "sft"] if loss.sft_weight else ["sigmoid"],
            loss_weights=[1.0, loss.sft_weight] if loss.sft_weight else None,
        ),
        vlm,
        lazy_rows(with_reference(pairs, reference, chat), open_image, fields),
        job,
        place,
        figures={"rewards/margins": "reward margin", "rewards/accuracies": "accuracy"},
    )
    return pa.table(
        {
            "step": [record["step"] for record in history],
            "loss": [float(record["loss"]) for record in history],
            "learning_rate": [float(record["learning_rate"]) for record in history],
            "grad_norm": [float(record["grad_norm"]) for record in history],
            "reward_margin": [float(record["rewards/margins"]) for record in history],
            "reward_accuracy": [float(record["rewards/accuracies"]) for record in history],
            "chosen_logp": [float(record["logps/chosen"]) for record in history],
            "rejected_logp": [float(record["logps/rejected"]) for record in history],
        }
    )
