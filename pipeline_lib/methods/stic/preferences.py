"""Preference data: each image is described twice, well and badly (section 4.1, Algorithm 1).

Preferred is the answer to the curated prompt. Dis-preferred is the answer to a bad prompt, or the answer to a plain
prompt about a corrupted image. Stored are the plain prompt, the clean image and both answers.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.stic.corrupt import color_jitter, draw_jitter, low_resolution
from pipeline_lib.methods.stic.prompt import Prompts
from pipeline_lib.methods.stic.recipe import Preferences
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw

if TYPE_CHECKING:
    from pipeline_lib.vlm.batches import Record
    from pipeline_lib.vlm.generate import Decoding
    from pipeline_lib.vlm.load import Vlm

log = logging.getLogger("whyscore.stic")

REASONS = ("bad_prompt", "low_resolution", "color_jitter")
"""Where a dis-preferred answer comes from."""


def choose_images(images: pa.Table, count: int | None, seed: int) -> pa.Table:
    """`count` training images, drawn by their names and kept in table order; all of them where there are fewer."""
    train = images.filter(pc.equal(images["split"], "train"))
    if count is None or count >= train.num_rows:
        return train
    draws = [draw(f"{seed}:preferences", image) for image in train["image"].to_pylist()]
    return train.take(pa.array(np.sort(np.argsort(draws, kind="stable")[:count])))


def draw_ways(images: pa.Table, config: Preferences, prompts: Prompts, seed: int) -> list["Record"]:
    """The images as records with the plain prompt of each, and how its dis-preferred answer is made.

    Every draw depends on the image's name alone, so shards and resumed runs agree.
    """
    records: list[Record] = images.select(["image", "image_sha256", "width_px", "height_px"]).to_pylist()
    for record in records:
        image = record["image"]
        record["plain_prompt"] = _one(prompts.plain, seed, "plain", image)
        record["brightness"] = record["hue"] = None
        if draw(f"{seed}:bad", image) < config.bad_prompt_share:
            record["rejected_by"] = "bad_prompt"
            record["rejected_prompt"] = _one(prompts.bad, seed, "which-bad", image)
            continue
        record["rejected_prompt"] = record["plain_prompt"]
        if draw(f"{seed}:corruption", image) < config.low_resolution_share:
            record["rejected_by"] = "low_resolution"
        else:
            record["rejected_by"] = "color_jitter"
            record["brightness"], record["hue"] = draw_jitter(seed, image, config.brightness, config.hue)
    return records


def rejected_image(image: Image, record: "Record", config: Preferences) -> Image:
    """The image that the dis-preferred answer of a record is about: corrupted, or the image itself."""
    if record["rejected_by"] == "low_resolution":
        return low_resolution(image, config.low_resolution_px)
    if record["rejected_by"] == "color_jitter":
        return color_jitter(image, record["brightness"], record["hue"])
    return image


def describe_both_ways(
    vlm: "Vlm",
    records: Sequence["Record"],
    open_image: Callable[[str, str], Image],
    *,
    config: Preferences,
    prompts: Prompts,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """A row of `PREFERENCES` for each record of `draw_ways`; `batch_size` counts answers, two an image."""
    from pipeline_lib.vlm.batches import Record, ask_in_batches
    from pipeline_lib.vlm.chat import render_chat, tokens
    from pipeline_lib.vlm.generate import Generated, Question, generate_answers

    chat_of = cache(lambda text: render_chat(vlm.processor, text))
    decoding = decoding_at(config.temperature, max_new_tokens, seed)

    def describe(batch: list[Record], images: list[list[Image]]) -> list[list[Generated]]:
        questions = []
        for record, (image,) in zip(batch, images, strict=True):
            two = ((prompts.curated, image), (record["rejected_prompt"], rejected_image(image, record, config)))
            for side, (text, shown) in zip(("chosen", "rejected"), two, strict=True):
                chat = chat_of(text)
                questions.append(Question(chat, [shown], key=f"{record['image']}:{side}"))
        found = [answers[0] for answers in generate_answers(vlm, questions, decoding).answers]
        return [found[at : at + 2] for at in range(0, len(found), 2)]

    two = ask_in_batches(vlm.model, records, open_image, max(1, batch_size // 2), describe, progress)
    curated = len(tokens(vlm.processor.tokenizer, chat_of(prompts.curated).prompt))
    rows = []
    for record, (chosen, rejected) in zip(records, two, strict=True):
        chat = chat_of(record["plain_prompt"])
        image_tokens = chosen.prompt_tokens - curated
        row: dict[str, Any] = {name: value for name, value in record.items() if name not in ("width_px", "height_px")}
        row |= {"prompt": chat.prompt}
        row |= {"prompt_tokens": image_tokens + len(tokens(vlm.processor.tokenizer, chat.prompt))}
        for side, answer in (("chosen", chosen), ("rejected", rejected)):
            text = answer.text.strip()
            length = len(tokens(vlm.processor.tokenizer, chat.answer(text, finished=answer.finished)))
            row |= {side: text, f"{side}_tokens": length, f"{side}_finished": answer.finished}
        rows.append(row)
    return pa.Table.from_pylist(rows)


def decoding_at(temperature: float, max_new_tokens: int, seed: int) -> "Decoding":
    """Sampling at a temperature; greedy at 0."""
    from pipeline_lib.vlm.generate import Greedy, Sampled

    if not temperature:
        return Greedy(max_new_tokens=max_new_tokens)
    return Sampled(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)


def usable_preferences(pairs: pa.Table) -> pa.Table:
    """Pairs to learn from: those with an empty answer or two equal ones are left out and counted in the log.

    Raises `DataError` when no pair is left.
    """
    flaws = _flaws(pairs)
    keep = [not flaw for flaw in flaws]
    if not any(keep):
        raise DataError(
            f"none of {len(keep)} pairs can be learnt from: {flaws.count('equal')} have two equal answers,"
            f" {flaws.count('empty')} an empty one; raise preferences.temperature, or look at the model's descriptions"
        )
    if not all(keep):
        log.warning(
            "%d of %d pairs are left out of training: %d with two equal answers, %d with an empty one",
            keep.count(False), len(keep), flaws.count("equal"), flaws.count("empty"),
        )  # fmt: skip
    return pairs.filter(pa.array(keep))


def preference_metrics(pairs: pa.Table) -> pa.Table:
    """Shares of the pairs by where the dis-preferred answer comes from, and of those left out; `METRICS`."""
    flaws, reasons = _flaws(pairs), pairs["rejected_by"].to_pylist()
    count = max(len(flaws), 1)
    shares = {f"{reason}_share": reasons.count(reason) / count for reason in REASONS}
    shares |= {f"{flaw}_share": flaws.count(flaw) / count for flaw in ("empty", "equal")}
    unfinished = {
        f"{side}_cut_off_share": pairs[f"{side}_finished"].to_pylist().count(False) / count
        for side in ("chosen", "rejected")
    }
    return pa.Table.from_pylist(
        [
            {"split": "train", "metric": name, "value": value, "low": np.nan, "high": np.nan, "rows": len(flaws)}
            for name, value in (shares | unfinished).items()
        ]
    )


def exchange(pairs: pa.Table) -> pa.Table:
    """The pairs with the preferred and the dis-preferred answer exchanged: the control."""
    columns = {name: pairs[name] for name in pairs.column_names}
    for end in ("", "_tokens", "_finished"):
        columns |= {f"chosen{end}": pairs[f"rejected{end}"], f"rejected{end}": pairs[f"chosen{end}"]}
    return pa.table(columns, schema=pairs.schema)


def _flaws(pairs: pa.Table) -> list[str]:
    answers = zip(pairs["chosen"].to_pylist(), pairs["rejected"].to_pylist(), strict=True)
    return [
        "empty" if not (chosen and rejected) else "equal" if chosen == rejected else "" for chosen, rejected in answers
    ]


def _one(texts: Sequence[str], seed: int, purpose: str, image: str) -> str:
    return texts[int(draw(f"{seed}:{purpose}", image) * len(texts))]


def with_sizes(pairs: pa.Table, images: pa.Table) -> pa.Table:
    """The pairs with the size of their images, which decides what is asked in one batch."""
    sizes = {row["image"]: row for row in images.select(["image", "width_px", "height_px"]).to_pylist()}
    names = pairs["image"].to_pylist()
    for side in ("width_px", "height_px"):
        pairs = pairs.append_column(side, pa.array([sizes[name][side] for name in names], pa.int32()))
    return pairs
