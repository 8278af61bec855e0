"""Preference pairs as a trainer takes them: checked, and rendered as the model's own chat when they are read."""

import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from datasets import Dataset
from PIL.Image import Image

from pipeline_lib.errors import DataError
from pipeline_lib.vlm.chat import Chat

log = logging.getLogger("whyscore.train")


def usable_pairs(pairs: pa.Table, max_length: int) -> pa.Table:
    """Pairs that can be trained on: rows in which either explanation is empty are left out, counted in the log.

    Supervised training, which needs the chosen side alone, takes the same rows, so that what is compared with DPO has
    seen the same images. Raises `DataError` naming the rows that are longer than `max_length` tokens, and when no row
    is left.
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


def render_answer(chat: Chat, pair: dict[str, Any], answer: str) -> str:
    """`chosen`, `rejected` or `swapped` of a pair as the assistant's turn; swapping a score ends no text."""
    finished = pair["chosen_finished" if answer == "chosen" else "rejected_finished"]
    return chat.answer(pair[answer], finished=finished)


def lazy_rows(
    pairs: pa.Table, open_image: Callable[[str, str], Image], fields: Callable[[dict[str, Any]], dict[str, Any]]
) -> Dataset:
    """Rows with `image`, `prompt` and the `fields(pair)` of a pair; photographs are opened when a row is read."""

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        made = [fields(pair) for pair in pairs]
        return {
            "image": [open_image(pair["image"], pair["image_sha256"]) for pair in pairs],
            "prompt": batch["prompt"],
            **{name: [row[name] for row in made] for name in made[0]},
        }

    return Dataset(pairs.combine_chunks()).with_transform(rows)
