"""Score pairs: the model explains the true score and a wrong one (section 3.1)."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from pipeline_lib.preference.draw import draw, draw_rows
from pipeline_lib.progress import Progress
from pipeline_lib.recipe import SCORES
from pipeline_lib.vlm.answer import answer_prefix
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.inference import answer_tokens, generate_greedy
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

    Both are greedy continuations of an answer whose score was injected. `open_image(image, sha256)` opens a photograph.
    """
    rows = []
    records = images.select(["image", "image_sha256", "bin"]).to_pylist()
    half = max(1, batch_size // 2)
    for start in range(0, len(records), half):
        batch = records[start : start + half]
        pictures = [open_image(row["image"], row["image_sha256"]) for row in batch]
        wrong = [draw_wrong_score(row["bin"], min_distance, seed, iteration, row["image"]) for row in batch]
        prefixes = [answer_prefix(row["bin"]) for row in batch] + [answer_prefix(score) for score in wrong]
        beginnings = [chat.separator + prefix for prefix in prefixes]
        results = generate_greedy(vlm, chat, pictures * 2, beginnings, max_new_tokens)
        texts = [prefix + result.text for prefix, result in zip(prefixes, results, strict=True)]
        lengths = [answer_tokens(vlm, beginning) for beginning in beginnings]
        for at, row in enumerate(batch):
            other = at + len(batch)
            rows.append(
                {
                    "image": row["image"],
                    "image_sha256": row["image_sha256"],
                    "prompt": chat.prompt,
                    "true_score": row["bin"],
                    "wrong_score": wrong[at],
                    "chosen": texts[at],
                    "rejected": texts[other],
                    "prompt_tokens": results[at].prompt_tokens - lengths[at],
                    "chosen_tokens": lengths[at] + results[at].tokens,
                    "rejected_tokens": lengths[other] + results[other].tokens,
                    "chosen_finished": results[at].finished,
                    "rejected_finished": results[other].finished,
                }
            )
        progress.advance(len(batch))
    return pa.Table.from_pylist(rows)
