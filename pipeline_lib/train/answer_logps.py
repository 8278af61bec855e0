"""Log-probabilities of any number of answers to each prompt, from one pass over the prompt and its images."""

import logging
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from pipeline_lib.train.prefix_rows import Row, collate_rows
from pipeline_lib.train.prefix_shared import sharing_prefix
from pipeline_lib.vlm.generate.attention import why_not_shared
from pipeline_lib.vlm.load import Vlm

log = logging.getLogger("whyscore.train")

_OF_ROWS = ("row_ids", "row_parts", "input_ids", "completion_mask")


def answer_logps(vlm: Vlm, rows: Sequence[Row], max_length: int) -> list[list[float]]:
    """For each row a value an answer: nats, summed over the answer's tokens, 0 where it has none.

    The prefix of a row is computed once. A model that cannot share it in texts of up to `max_length` tokens reads it
    once an answer, with the same results; this is logged once.
    """
    reason = why_not_shared(vlm.model, max_length)
    if reason is None:
        return shared_logps(vlm, rows)
    _log_plain_path(reason)
    return plain_logps(vlm, rows)


@torch.no_grad()
def shared_logps(vlm: Vlm, rows: Sequence[Row]) -> list[list[float]]:
    """`answer_logps` of a model that can share the prefix."""
    if not any(row.answers for row in rows):
        return [[] for _ in rows]
    batch = {name: value.to(vlm.device) for name, value in collate_rows(vlm.processor, rows).items()}
    with _precision_of_training(vlm), sharing_prefix(vlm.model.model, batch):
        found = _summed(vlm, {"input_ids": batch["input_ids"]}, batch["completion_mask"])
    by_row = found.view(-1, len(rows)).T.tolist()
    return [values[: len(row.answers)] for row, values in zip(rows, by_row, strict=True)]


@torch.no_grad()
def plain_logps(vlm: Vlm, rows: Sequence[Row]) -> list[list[float]]:
    """As `shared_logps`, with a row for each answer: all first answers in one pass, then all second ones, and so on."""
    values = [[0.0] * len(row.answers) for row in rows]
    for answer in range(max((len(row.answers) for row in rows), default=0)):
        there = [at for at, row in enumerate(rows) if row.answers[answer : answer + 1] and row.answers[answer]]
        if not there:
            continue
        alone = [rows[at]._replace(answers=[rows[at].answers[answer]]) for at in there]
        batch = {name: value.to(vlm.device) for name, value in collate_rows(vlm.processor, alone).items()}
        inputs = {"input_ids": batch["row_ids"]} | {
            name: value for name, value in batch.items() if name not in _OF_ROWS
        }
        with _precision_of_training(vlm):
            found = _summed(vlm, inputs, batch["row_parts"] == 1)
        for at, value in zip(there, found.tolist(), strict=True):
            values[at][answer] = value
    return values


def _summed(vlm: Vlm, inputs: dict[str, Tensor], completion_mask: Tensor) -> Tensor:
    labels = inputs["input_ids"].masked_fill(completion_mask == 0, -100)
    add_fused_lm_head(vlm.model)  # as in TRL's trainer, for this call only, because the model may have other work
    try:
        logps: Tensor = vlm.model(**inputs, labels=labels, fused_lm_head=True, use_cache=False).log_probs
    finally:
        del vlm.model.forward
    return logps.double().sum(1)


def _precision_of_training(vlm: Vlm) -> torch.autocast:
    """The autocast of TRL's loss: in 16 bit, norms and softmax run in float32."""
    dtype = vlm.model.dtype
    return torch.autocast(vlm.device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16))


@cache
def _log_plain_path(reason: str) -> None:
    log.warning("each answer needs a row of its own, which is two to three times slower: %s", reason)
