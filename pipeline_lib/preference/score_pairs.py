"""Score pairs: the model explains the true score and a wrong one (section 3.1)."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from pipeline_lib.preference.draw import draw, draw_rows
from pipeline_lib.progress import Progress
from pipeline_lib.recipe import SCORES
from pipeline_lib.vlm.answer import answer_prefix
from pipeline_lib.vlm.batches import ask_in_batches
from pipeline_lib.vlm.branched import generate_branches
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.inference import answer_tokens
from pipeline_lib.vlm.load import Vlm


def choose_training_images(
    images: pa.Table, fraction: float, seed: int, iteration: int, *, redraw: bool = True
) -> pa.Table:
    """The training images of one iteration: a share of them (appendix A.1), in table order.

    The share is drawn anew in each iteration, or is that of the first one in all of them (`redraw` false).
    """
    train = images.filter(pc.equal(images["split"], "train"))
    if fraction == 1.0:
        return train
    return draw_rows(train, fraction, f"{seed}:{iteration if redraw else 1}:use")


def draw_wrong_score(true_score: int, min_distance: int, seed: int, iteration: int, image: str) -> int:
    """A score drawn evenly from those at least `min_distance` away from the true one.

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
    """One row an image in `schemas.PREFERENCE_PAIRS`: `chosen` justifies the true score, `rejected` a wrong one.

    Both are greedy continuations of an answer whose score was injected, of one prefill of the image. `batch_size`
    counts answers, two an image. `open_image(image, sha256)` opens a photograph.
    """

    def explain(batch: list[dict[str, Any]], pictures: list[Image]) -> list[dict[str, Any]]:
        wrong = [draw_wrong_score(row["bin"], min_distance, seed, iteration, row["image"]) for row in batch]
        prefixes = [(answer_prefix(row["bin"]), answer_prefix(score)) for row, score in zip(batch, wrong, strict=True)]
        beginnings = [[chat.separator + prefix for prefix in both] for both in prefixes]
        found = generate_branches(vlm, chat, pictures, beginnings, max_new_tokens)
        rows = []
        for at, (row, results) in enumerate(zip(batch, found.answers, strict=True)):
            texts = [prefix + result.text for prefix, result in zip(prefixes[at], results, strict=True)]
            lengths = [answer_tokens(vlm, beginning) for beginning in beginnings[at]]
            rows.append(
                {
                    "image": row["image"],
                    "image_sha256": row["image_sha256"],
                    "prompt": chat.prompt,
                    "true_score": row["bin"],
                    "wrong_score": wrong[at],
                    "chosen": texts[0],
                    "rejected": texts[1],
                    "prompt_tokens": results[0].prompt_tokens - lengths[0],
                    "chosen_tokens": lengths[0] + results[0].tokens,
                    "rejected_tokens": lengths[1] + results[1].tokens,
                    "chosen_finished": results[0].finished,
                    "rejected_finished": results[1].finished,
                }
            )
        return rows

    records = images.select(["image", "image_sha256", "bin", "width_px", "height_px"]).to_pylist()
    rows = ask_in_batches(vlm.model, records, open_image, max(1, batch_size // 2), explain, progress)
    return pa.Table.from_pylist(rows)
