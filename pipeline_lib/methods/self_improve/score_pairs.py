"""Score pairs: the model explains the true score and a wrong one (section 3.1)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.methods.self_improve.recipe import SCORES
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw, draw_rows
from pipeline_lib.vlm.batches import Record, ask_in_batches
from pipeline_lib.vlm.chat import Chat, tokens
from pipeline_lib.vlm.generate import Generated, Greedy, Question, generate_answers
from pipeline_lib.vlm.load import Vlm

if TYPE_CHECKING:
    from pipeline_lib.vlm.engine.engine import Engine

Pair = list[Generated]
"""The answers for the true and for the wrong score."""


def choose_training_images(
    images: pa.Table, fraction: float, seed: int, iteration: int, *, redraw: bool = True
) -> pa.Table:
    """The training images of one iteration: a share of them (appendix A.1), in table order.

    The share is drawn again in each iteration, or is the first one's in all of them (`redraw` false).
    """
    train = images.filter(pc.equal(images["split"], "train"))
    if fraction == 1.0:
        return train
    return draw_rows(train, fraction, f"{seed}:{iteration if redraw else 1}:use")


def draw_wrong_score(true_score: int, min_distance: int, seed: int, iteration: int, image: str) -> int:
    """A score drawn with equal chances from those at least `min_distance` away from the true one.

    The draw depends on the image's name, not on its place in the table, so shards and resumed runs agree.
    """
    far = [score for score in SCORES if abs(score - true_score) >= min_distance]
    return far[int(draw(f"{seed}:{iteration}:wrong", image) * len(far))]


def generate_score_pairs(
    vlm: Vlm,
    chat: Chat,
    images: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    min_distance: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    iteration: int,
    progress: Progress,
) -> pa.Table:
    """One row an image in `SCORE_PAIRS`: `chosen` justifies the true score, `rejected` a wrong one.

    Both are greedy continuations of an answer whose score was injected, of one prefill of the image. `batch_size`
    counts answers, two an image. `open_image(image, sha256)` opens an image.
    """

    def explain(batch: list[Record], images: list[list[Image]]) -> list[Pair]:
        questions = [
            Question(chat, shown, [chat.separator + prefix for prefix in record["prefixes"]])
            for record, shown in zip(batch, images, strict=True)
        ]
        return generate_answers(vlm, questions, Greedy(max_new_tokens=max_new_tokens)).answers

    records = _records(images, min_distance, seed, iteration)
    pairs = ask_in_batches(vlm.model, records, open_image, max(1, batch_size // 2), explain, progress)
    return _table(records, pairs, chat, vlm.processor.tokenizer)


def generate_score_pairs_by_engine(
    engine: "Engine",
    images: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    min_distance: int,
    seed: int,
    iteration: int,
    progress: Progress,
) -> pa.Table:
    """`generate_score_pairs` with texts from a generation server (`EngineError` if it fails a check)."""
    records = _records(images, min_distance, seed, iteration)
    pairs = engine.answers(records, [record["prefixes"] for record in records], open_image, progress)
    return _table(records, pairs, engine.chat, engine.processor.tokenizer)


def _records(images: pa.Table, min_distance: int, seed: int, iteration: int) -> list[Record]:
    """The images with their wrong score and the beginnings of the two answers."""
    records: list[Record] = images.select(["image", "image_sha256", "bin", "width_px", "height_px"]).to_pylist()
    for record in records:
        record["wrong_score"] = draw_wrong_score(record["bin"], min_distance, seed, iteration, record["image"])
        record["prefixes"] = [answer_prefix(record["bin"]), answer_prefix(record["wrong_score"])]
    return records


def _table(records: list[Record], pairs: list[Pair], chat: Chat, tokenizer: Any) -> pa.Table:
    rows = []
    for record, pair in zip(records, pairs, strict=True):
        chosen, rejected = (prefix + result.text for prefix, result in zip(record["prefixes"], pair, strict=True))
        lengths = [len(tokens(tokenizer, chat.separator + prefix)) for prefix in record["prefixes"]]
        rows.append(
            {
                "image": record["image"],
                "image_sha256": record["image_sha256"],
                "prompt": chat.prompt,
                "true_score": record["bin"],
                "wrong_score": record["wrong_score"],
                "chosen": chosen,
                "rejected": rejected,
                "prompt_tokens": pair[0].prompt_tokens - lengths[0],
                "chosen_tokens": lengths[0] + pair[0].tokens,
                "rejected_tokens": lengths[1] + pair[1].tokens,
                "chosen_finished": pair[0].finished,
                "rejected_finished": pair[1].finished,
            }
        )
    return pa.Table.from_pylist(rows)
