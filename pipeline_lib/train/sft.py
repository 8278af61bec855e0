"""Supervised fine-tuning on the chosen answers: the two rows of the paper's Table 3 that DPO is compared with."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Unpack

import pyarrow as pa
from PIL.Image import Image
from trl import SFTConfig, SFTTrainer

from pipeline_lib.train.pairs import lazy_rows, usable_pairs
from pipeline_lib.train.trainer import Job, train_adapter
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.load import Vlm

Target = Literal["score", "score_text"]


def train_sft(
    vlm: Vlm,
    chat: Chat,
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    target: Target,
    **job: Unpack[Job],
) -> pa.Table:
    """Train one adapter on the chosen side of `SCORE_PAIRS`; returns its log in `SFT_LOG`.

    The loss is the mean negative log-likelihood of the target's tokens, all tokens of a batch alike, and falls on no
    token of the prompt (section 5.2). Target `score_text` is the whole chosen answer, `score` its score part alone:
    `#Score: 7` without an end token, since the model is to be taught the score and not that an answer ends behind it
    (decision 6). Everything else is as in `train_dpo`, the rows too.
    """

    def texts(pair: dict[str, Any]) -> dict[str, str]:
        if target == "score":
            return {"completion": chat.answer(pair["chosen"].partition("\n")[0], finished=False)}
        return {"completion": chat.answer(pair["chosen"], finished=pair["chosen_finished"])}

    history = train_adapter(
        SFTTrainer,
        partial(SFTConfig, completion_only_loss=True),
        vlm,
        lazy_rows(usable_pairs(pairs, job["config"].max_length), open_image, texts),
        job,
        accuracy="mean_token_accuracy",
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
