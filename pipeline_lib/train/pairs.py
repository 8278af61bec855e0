"""Preference pairs for a trainer: checked, and rendered with the model's own chat template when they are read.

A row about one image holds its `image` and `image_sha256`; one about several a list of such as `images`, in the order
of the placeholders in the prompt.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from datasets import Dataset
from PIL.Image import Image

from pipeline_lib.errors import DataError
from pipeline_lib.vlm.batches import images_of
from pipeline_lib.vlm.chat import Chat


def check_lengths(pairs: pa.Table, max_length: int) -> None:
    """Raise `DataError` naming the rows that are longer than `max_length` tokens: no row is cut.

    A row's longest answer counts; one that is only taught has no `rejected_tokens`.
    """
    answers = [name for name in ("chosen_tokens", "rejected_tokens") if name in pairs.column_names]
    names = ["images" if "images" in pairs.column_names else "image", "prompt_tokens", *answers]
    long = [
        f"{', '.join(image['image'] for image in images_of(row))}: {length} tokens"
        for row in pairs.select(names).to_pylist()
        if (length := row["prompt_tokens"] + max(row[name] for name in answers) + 1) > max_length
    ]
    if long:
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise DataError(
            f"{len(long)} row(s) are longer than training.max_length = {max_length}: {', '.join(long[:5])}{more};"
            " raise it, or lower model.resize_px or model.max_new_tokens"
        )


def render_answer(chat: Chat, pair: dict[str, Any], answer: str) -> str:
    """`chosen`, `rejected` or `swapped` of a pair as the assistant's turn; swapping a score ends no text."""
    finished = pair["chosen_finished" if answer == "chosen" else "rejected_finished"]
    return chat.answer(pair[answer], finished=finished)


def lazy_rows(
    pairs: pa.Table, open_image: Callable[[str, str], Image], fields: Callable[[dict[str, Any]], dict[str, Any]]
) -> Dataset:
    """Rows with `image` (or `images`), `prompt` and the `fields(pair)` of a pair; opens images when a row is read."""

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        made = [fields(pair) for pair in pairs]
        opened = [[open_image(image["image"], image["image_sha256"]) for image in images_of(pair)] for pair in pairs]
        images = {"images": opened} if "images" in batch else {"image": [image for (image,) in opened]}
        return {
            **images,
            "prompt": batch["prompt"],
            **{name: [row[name] for row in made] for name in made[0]},
        }

    return Dataset(pairs.combine_chunks()).with_transform(rows)
