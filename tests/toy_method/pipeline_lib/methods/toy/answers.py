"""Pairs of images, the answers to them, and the rule that keeps one."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa
from PIL.Image import Image

from pipeline_lib.progress import Progress
from pipeline_lib.tables.images import IMAGES

if TYPE_CHECKING:
    from pipeline_lib.vlm.batches import Record
    from pipeline_lib.vlm.chat import Chat
    from pipeline_lib.vlm.generate import Generated, Sampled
    from pipeline_lib.vlm.load import Vlm


def neighbours(images: pa.Table) -> pa.Table:
    """A row an image: it and the one after it, as `images`."""
    rows = images.select(IMAGES.schema.names).to_pylist()
    return pa.table({"images": [[one, other] for one, other in zip(rows, rows[1:] + rows[:1], strict=True)]})


def sample_answers(
    vlm: "Vlm",
    chat: "Chat",
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    decoding: "Sampled",
    count: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """`count` rows of `ANSWERS` a pair."""
    from pipeline_lib.vlm.batches import ask_in_batches
    from pipeline_lib.vlm.generate import Question, generate_answers

    def ask(batch: list["Record"], pictures: list[list[Image]]) -> list[list["Generated"]]:
        keys = [" ".join(image["image"] for image in record["images"]) for record in batch]
        asked = zip(keys, pictures, strict=True)
        questions = [Question(chat, images, [""] * count, key=key) for key, images in asked]
        return generate_answers(vlm, questions, decoding).answers

    records = pairs.to_pylist()
    found = ask_in_batches(vlm.model, records, open_image, batch_size, ask, progress)
    rows = [
        {
            "images": record["images"],
            "prompt": chat.prompt,
            "text": answer.text.strip(),
            "prompt_tokens": answer.prompt_tokens,
            "tokens": answer.tokens,
            "finished": answer.finished,
        }
        for record, answers in zip(records, found, strict=True)
        for answer in answers
    ]
    return pa.Table.from_pylist(rows)


def keep_by_length(answers: pa.Table, *, longest: bool) -> pa.Table:
    """Of the answers to each pair the shortest that says anything, or the longest, as `KEPT`."""
    kept = []
    for _, rows in groupby(answers.to_pylist(), key=lambda row: names(row["images"])):
        said = [row for row in rows if row["text"]]
        kept += sorted(said, key=lambda row: (row["tokens"], row["text"]), reverse=longest)[:1]
    return pa.table(
        {
            "images": [row["images"] for row in kept],
            "prompt": [row["prompt"] for row in kept],
            "chosen": [row["text"] for row in kept],
            "prompt_tokens": [row["prompt_tokens"] for row in kept],
            "chosen_tokens": [row["tokens"] + 1 for row in kept],  # with the separator
            "chosen_finished": [row["finished"] for row in kept],
        }
    )


def names(images: Sequence["Record"]) -> str:
    """The images of a pair, for people."""
    return " and ".join(image["image"] for image in images)
