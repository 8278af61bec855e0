"""Log-probabilities of all answers under the reference, once for all trainings on the pairs (section 3.2, decision 12).

The reference of DPO is the bare base in every iteration. Its log-probability of an answer is the same in each epoch and
in every cell of a grid, and for a chosen answer in both branches. So it sees each image once, with its two or three
answers in one row (`answer_logps`). The digest of prompt and answer identifies an answer.
"""

import hashlib
from collections.abc import Callable, Sequence

import pyarrow as pa
from PIL.Image import Image

from pipeline_lib.errors import DataError
from pipeline_lib.progress import Progress
from pipeline_lib.train.answer_logps import answer_logps
from pipeline_lib.train.pairs import render_answer
from pipeline_lib.train.prefix_rows import PAIR, Row
from pipeline_lib.train.stored_reference import REFERENCE
from pipeline_lib.vlm.batches import Record, ask_in_batches
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.load import Vlm


def reference_logps(
    vlm: Vlm,
    chat: Chat,
    rows: pa.Table,
    answers: Sequence[str],
    open_image: Callable[[str, str], Image],
    *,
    max_length: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """`REFERENCE_LOGPS` of the columns `answers` of preference pairs, under the bare base `vlm`; null: none.

    `batch_size` counts answers, as in generation. A model that cannot share the prefix reads it once an answer.
    """

    def ask(batch: list[Record], images: list[list[Image]]) -> list[list[Record]]:
        texts = [
            {answer: render_answer(chat, row, answer) if row[answer] else "" for answer in answers} for row in batch
        ]
        asked = [
            Row(shown, row["prompt"], [text[answer] for answer in answers])
            for row, shown, text in zip(batch, images, texts, strict=True)
        ]
        found = answer_logps(vlm, asked, max_length)
        return [
            [
                {
                    "image": row["image"],
                    "image_sha256": row["image_sha256"],
                    "answer": answer,
                    "text_sha256": _digest(row["prompt"], text[answer]),
                    "logp": logp,
                }
                for answer, logp in zip(answers, logps, strict=True)
                if text[answer]
            ]
            for row, text, logps in zip(batch, texts, found, strict=True)
        ]

    found = ask_in_batches(vlm.model, rows.to_pylist(), open_image, max(1, batch_size // 2), ask, progress)
    return pa.Table.from_pylist([row for of_image in found for row in of_image])


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


def _digest(prompt: str, answer: str) -> str:
    return hashlib.sha256(f"{prompt}\n{answer}".encode()).hexdigest()
