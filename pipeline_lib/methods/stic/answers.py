"""Descriptions of images, questions behind them, and answers: for stage 2 and for evaluation (Algorithm 2)."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL.Image import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.stic.preferences import decoding_at
from pipeline_lib.methods.stic.prompt import infused_question
from pipeline_lib.methods.stic.tables import ANSWERS, INFUSED
from pipeline_lib.progress import Progress

if TYPE_CHECKING:
    from pipeline_lib.vlm.batches import Record
    from pipeline_lib.vlm.load import Vlm


def describe_images(
    vlm: "Vlm",
    prompt: str,
    images: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """A row of `DESCRIPTIONS` an image."""
    from pipeline_lib.vlm.batches import Record, ask_in_batches
    from pipeline_lib.vlm.chat import render_chat, tokens
    from pipeline_lib.vlm.generate import Generated, Question, generate_answers

    chat, decoding = render_chat(vlm.processor, prompt), decoding_at(temperature, max_new_tokens, seed)

    def ask(batch: list[Record], shown: list[list[Image]]) -> list[Generated]:
        named = zip(batch, shown, strict=True)
        questions = [Question(chat, images, key=record["image"]) for record, images in named]
        return [answers[0] for answers in generate_answers(vlm, questions, decoding).answers]

    records = images.to_pylist()
    found = ask_in_batches(vlm.model, records, open_image, batch_size, ask, progress)
    text_tokens = len(tokens(vlm.processor.tokenizer, chat.prompt))
    rows = [
        {
            "image": record["image"],
            "image_sha256": record["image_sha256"],
            "description": said.text.strip(),
            "tokens": said.tokens,
            "finished": said.finished,
            "image_tokens": said.prompt_tokens - text_tokens,
        }
        for record, said in zip(records, found, strict=True)
    ]
    return pa.Table.from_pylist(rows)


def by_image(descriptions: pa.Table) -> dict[str, "Record"]:
    """The rows of `DESCRIPTIONS` by the names of their images."""
    return {row["image"]: row for row in descriptions.to_pylist()}


def infuse(processor: Any, questions: pa.Table, descriptions: pa.Table, infused: str, *, describe: bool) -> pa.Table:
    """`INFUSED` of instructions: the description before the question, the answer unchanged; text alone stays as it is.

    Without `describe` no question gets a description. Of several reference answers the first is taught. Raises
    `DataError` for an image without a description.
    """
    from pipeline_lib.vlm.chat import render_chat, tokens

    described = by_image(descriptions)
    rows = []
    for row in questions.to_pylist():
        names = [image["image"] for image in row["images"]]
        if lacking := [name for name in names if name not in described]:
            raise DataError(f"{', '.join(lacking)} has no description; they were written for other images")
        description = described[names[0]]["description"] if names else None
        behind = description is not None and describe
        text = infused_question(infused, description or "", row["question"]) if behind else row["question"]
        chat = render_chat(processor, text, images=len(names))
        image_tokens = sum(described[name]["image_tokens"] for name in names)
        answer = row["answers"][0]
        rows.append(
            {
                "images": row["images"],
                "prompt": chat.prompt,
                "chosen": answer,
                "prompt_tokens": image_tokens + len(tokens(processor.tokenizer, chat.prompt)),
                "chosen_tokens": len(tokens(processor.tokenizer, chat.answer(answer))),
                "chosen_finished": True,
                "description": description if behind else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=INFUSED.schema)


def answer_questions(
    vlm: "Vlm",
    questions: pa.Table,
    open_image: Callable[[str, str], Image],
    descriptions: Mapping[str, str] | None,
    infused: str,
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """A row of `ANSWERS` a question, greedy; each is asked behind the description of its image if there are any."""
    from pipeline_lib.vlm.batches import Record, ask_in_batches
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.generate import Generated, Greedy, Question, generate_answers

    chat_of = cache(lambda text, images: render_chat(vlm.processor, text, images=images))

    def asked(record: Record) -> str:
        question: str = record["question"]
        if descriptions is None or not record["images"]:
            return question
        return infused_question(infused, descriptions[record["images"][0]["image"]], question)

    def ask(batch: Sequence[Record], shown: Sequence[Sequence[Image]]) -> list[Generated]:
        rows = [
            Question(chat_of(asked(record), len(images)), images) for record, images in zip(batch, shown, strict=True)
        ]
        return [answers[0] for answers in generate_answers(vlm, rows, Greedy(max_new_tokens=max_new_tokens)).answers]

    found: dict[int, Generated] = {}
    records = questions.to_pylist()
    for with_image in (False, True):  # apart: a batch has images in all of its rows or in none
        some = [record for record in records if bool(record["images"]) == with_image]
        answers = ask_in_batches(vlm.model, some, open_image, batch_size, ask, progress)
        found |= {record["row"]: answer for record, answer in zip(some, answers, strict=True)}
    rows = [
        {"row": record["row"], "answer": (said := found[record["row"]]).text.strip(), "finished": said.finished}
        for record in records
    ]
    return pa.Table.from_pylist(rows, schema=ANSWERS.schema)
