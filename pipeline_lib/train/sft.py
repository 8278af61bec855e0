"""Supervised fine-tuning on the chosen answers of preference pairs, or on the answers of any other table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
from PIL.Image import Image
from trl import SFTConfig, SFTTrainer

from pipeline_lib.train.job import Place, TrainingJob
from pipeline_lib.train.pairs import check_lengths, lazy_rows
from pipeline_lib.train.trainer import train_adapter
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.load import Vlm


def train_sft(
    vlm: Vlm,
    chat: Chat,
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    job: TrainingJob,
    place: Place,
) -> pa.Table:
    """Train one adapter on the column `chosen` of rows as in `PREFERENCE_PAIRS`; returns its log in `SFT_LOG`.

    Rows need no rejected answer, and may be about several images (`pipeline_lib.train.pairs`).

    The loss is the mean negative log-likelihood over all answer tokens of a batch, without the tokens of the prompt
    (section 5.2). An answer that is not `chosen_finished` gets no end token. Everything else is as in `train_dpo`.
    """
    check_lengths(pairs, job.lora.max_length)

    def texts(pair: dict[str, Any]) -> dict[str, str]:
        return {"completion": chat.answer(pair["chosen"], finished=pair["chosen_finished"])}

    history = train_adapter(
        SFTTrainer,
        partial(SFTConfig, completion_only_loss=True),
        vlm,
        lazy_rows(pairs, open_image, texts),
        job,
        place,
        figures={"mean_token_accuracy": "accuracy"},
    )
    return pa.table(
        {
            "step": [record["step"] for record in history],
            "loss": [float(record["loss"]) for record in history],
            "learning_rate": [float(record["learning_rate"]) for record in history],
            "grad_norm": [float(record["grad_norm"]) for record in history],
            "token_accuracy": [float(record["mean_token_accuracy"]) for record in history],
        }
    )
