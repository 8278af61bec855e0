"""Log-probabilities of all answers under the reference, once for all trainings on the pairs (section 3.2, decision 12).

The reference of DPO is the bare base in every iteration. What it makes of an answer is the same in each epoch, in every
cell of a grid, and of a chosen answer in both branches, so each photograph is shown to it once, with its two or three
answers in one row (`prefix_rows`). An answer is found again by what it says: the digest of prompt and answer.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import torch
from PIL.Image import Image
from torch import Tensor
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
from trl.trainer.utils import add_fused_lm_head

from pipeline_lib.errors import DataError
from pipeline_lib.progress import Progress
from pipeline_lib.train.pairs import render_answer, usable_pairs
from pipeline_lib.train.prefix_rows import PAIR, collate_pairs
from pipeline_lib.train.prefix_shared import sharing_prefix
from pipeline_lib.train.stored_reference import REFERENCE
from pipeline_lib.vlm.batches import ask_in_batches
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.load import Vlm
from pipeline_lib.vlm.sharing import why_not_shared

log = logging.getLogger("whyscore.train")

ANSWERS = (*PAIR, "swapped")
"""A pair's own answers, and the rejected one with the true score where there is a consistency pair."""

Row = dict[str, Any]


def answers_of_pairs(
    score_pairs: pa.Table, consistency_pairs: pa.Table | None, images: pa.Table, max_length: int
) -> pa.Table:
    """The score pairs that can be trained on, with `swapped`: what is rejected in the consistency pair, else null.

    The size of each photograph stands beside them. Leaves out and refuses what `usable_pairs` does, of both tables.
    """
    rejected: dict[str, str] = {}
    if consistency_pairs is not None:
        usable = usable_pairs(consistency_pairs, max_length)
        rejected = dict(zip(usable["image"].to_pylist(), usable["rejected"].to_pylist(), strict=True))
    pairs = usable_pairs(score_pairs, max_length)
    names = pairs["image"].to_pylist()
    sizes = {row["image"]: row for row in images.select(["image", "width_px", "height_px"]).to_pylist()}
    for side in ("width_px", "height_px"):
        pairs = pairs.append_column(side, pa.array([sizes[name][side] for name in names], pa.int32()))
    return pairs.append_column("swapped", pa.array([rejected.get(name) for name in names], pa.string()))


def reference_logps(
    vlm: Vlm,
    chat: Chat,
    rows: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    max_length: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """`REFERENCE_LOGPS` of rows of `answers_of_pairs`, under the bare base `vlm`.

    `batch_size` counts answers, as in generation. A model that cannot share the prefix reads it once an answer.
    """
    reason = why_not_shared(vlm.model, max_length)
    if reason is not None:
        _log_plain_path(reason)
    logps = shared_logps if reason is None else plain_logps

    def ask(batch: list[Row], pictures: list[Image]) -> list[list[Row]]:
        texts = [
            {answer: render_answer(chat, row, answer) if row[answer] else "" for answer in ANSWERS} for row in batch
        ]
        shown = [
            {"image": picture, "prompt": row["prompt"], **text}
            for row, picture, text in zip(batch, pictures, texts, strict=True)
        ]
        found = logps(vlm, shown)
        return [
            [
                {
                    "image": row["image"],
                    "image_sha256": row["image_sha256"],
                    "answer": answer,
                    "text_sha256": _digest(row["prompt"], text[answer]),
                    "logp": found[answer][at],
                }
                for answer in ANSWERS
                if text[answer]
            ]
            for at, (row, text) in enumerate(zip(batch, texts, strict=True))
        ]

    found = ask_in_batches(vlm.model, rows.to_pylist(), open_image, max(1, batch_size // 2), ask, progress)
    return pa.Table.from_pylist([row for of_image in found for row in of_image])


@torch.no_grad()
def shared_logps(vlm: Vlm, rows: Sequence[Row]) -> dict[str, list[float]]:
    """For each of `ANSWERS` a value a row: nats, summed over the answer's tokens, 0 where there is none.

    Rows hold `image`, and as rendered strings `prompt` and `ANSWERS`, empty ones where there is none. The prefix of a
    row is computed once.
    """
    batch = {name: value.to(vlm.device) for name, value in collate_pairs(vlm.processor, rows, ANSWERS).items()}
    with _precision_of_training(vlm), sharing_prefix(vlm.model.model, batch):
        found = _summed(vlm, {"input_ids": batch["input_ids"]}, batch["completion_mask"])
    return {answer: part.tolist() for answer, part in zip(ANSWERS, found.chunk(len(ANSWERS)), strict=True)}


@torch.no_grad()
def plain_logps(vlm: Vlm, rows: Sequence[Row]) -> dict[str, list[float]]:
    """As `shared_logps`, by stock TRL's batch: a row for each answer, each with a prefix of its own."""
    collate = DataCollatorForVisionPreference(vlm.processor)
    values = {answer: [0.0] * len(rows) for answer in ANSWERS}
    for answer in ANSWERS:
        there = [at for at, row in enumerate(rows) if row[answer]]
        if not there:
            continue
        both = collate(
            [{**{name: rows[at][name] for name in ("image", "prompt")}, **dict.fromkeys(PAIR, rows[at][answer])}
             for at in there]
        )  # fmt: skip
        batch = {name: value[: len(value) // 2].to(vlm.device) for name, value in both.items()}  # all of it is twice
        with _precision_of_training(vlm):
            found = _summed(vlm, batch, batch.pop("completion_mask"))
        for at, value in zip(there, found.tolist(), strict=True):
            values[answer][at] = value
    return values


def with_reference(pairs: pa.Table, reference: pa.Table, chat: Chat) -> pa.Table:
    """`pairs` with the stored log-probability of each answer, in the columns of `REFERENCE`.

    Raises `DataError` naming the pairs whose answers `reference` (`REFERENCE_LOGPS`) does not have.
    """
    known = {(row["image"], row["image_sha256"], row["text_sha256"]): row["logp"] for row in reference.to_pylist()}
    rows = pairs.to_pylist()
    found = [
        [
            known.get((row["image"], row["image_sha256"], _digest(row["prompt"], render_answer(chat, row, side))))
            for side in PAIR
        ]
        for row in rows
    ]
    lacking = [row["image"] for row, logps in zip(rows, found, strict=True) if None in logps]
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise DataError(
            f"{len(lacking)} of {len(rows)} pair(s) have no log-probabilities of the reference:"
            f" {', '.join(lacking[:5])}{more}; they were computed for other pairs or another prompt"
        )
    for name, logps in zip(REFERENCE, zip(*found, strict=True), strict=True):
        pairs = pairs.append_column(name, pa.array(logps, pa.float64()))
    return pairs


def _summed(vlm: Vlm, inputs: dict[str, Tensor], completion_mask: Tensor) -> Tensor:
    labels = inputs["input_ids"].masked_fill(completion_mask == 0, -100)
    add_fused_lm_head(vlm.model)  # that of TRL's trainer, for this call: the model may go on to other work
    try:
        logps: Tensor = vlm.model(**inputs, labels=labels, fused_lm_head=True, use_cache=False).log_probs
    finally:
        del vlm.model.forward
    return logps.double().sum(1)


def _precision_of_training(vlm: Vlm) -> torch.autocast:
    """What surrounds TRL's loss: in 16 bit, norms and softmax run in float32."""
    dtype = vlm.model.dtype
    return torch.autocast(vlm.device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16))


def _digest(prompt: str, answer: str) -> str:
    return hashlib.sha256(f"{prompt}\n{answer}".encode()).hexdigest()


@cache
def _log_plain_path(reason: str) -> None:
    log.warning("the reference reads each answer in a row of its own, two to three times slower: %s", reason)
