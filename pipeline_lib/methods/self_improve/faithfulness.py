"""Probe explanations: do they tell their score, depend on their image, and name no number (section 6)?

The probe takes test images drawn once, by name, so that every model is asked about the same ones. Each image has a
partner, another image. The model explains the score that it stated for the image again, but for the partner. Changes in
the text come from the image; the rest comes from the score or from habit.
"""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL.Image import Image

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.evaluation import metric_row
from pipeline_lib.methods.self_improve.round_trip import RoundTripJudge
from pipeline_lib.methods.self_improve.score_mentions import mentioned_scores
from pipeline_lib.methods.self_improve.tables import FAITHFULNESS, OTHER_EXPLANATIONS
from pipeline_lib.methods.self_improve.text_alone import image_text_gap
from pipeline_lib.metrics.figures import mae, mean, srcc
from pipeline_lib.metrics.intervals import grouped_estimate, grouped_estimates, rate_estimate
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw, draw_rows
from pipeline_lib.tables.table import conform
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate import Greedy, Question, generate_answers
from pipeline_lib.vlm.generate.inputs import answer_tokens
from pipeline_lib.vlm.load import Vlm

_TAG = "#Explain:"
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def draw_probes(predictions: pa.Table, rows: int, seed: int) -> pa.Table:
    """The questions of the probe: at most `rows` test images with their partners, without those whose answer did not
    parse.

    Images and partners are drawn among all test images by name alone, so they are the same for every model. The partner
    is the next one in an order drawn by name (the first follows the last) that is not a copy of the image; without
    copies every image is the partner of exactly one. The columns are those of `PREDICTIONS` and `other_image`,
    `other_image_sha256`. Raises `DataError` when all drawn images are copies of one.
    """
    test = predictions.filter(pc.equal(predictions["split"], "test"))
    drawn = draw_rows(test, min(1.0, rows / max(test.num_rows, 1)), f"{seed}:faithfulness")
    named = list(zip(drawn["image"].to_pylist(), drawn["image_sha256"].to_pylist(), strict=True))
    if named and len({sha256 for _, sha256 in named}) < 2:
        raise DataError(
            f"faithfulness: the {len(named)} test image(s) drawn have one and the same content, so none has a partner;"
            " give more test images, raise faithfulness.rows, or set it to 0"
        )
    ring = sorted(named, key=lambda item: (draw(f"{seed}:faithfulness_partner", item[0]), item[0]))
    partners = {
        image: next(other for other in ring[at + 1 :] + ring[:at] if other[1] != sha256)
        for at, (image, sha256) in enumerate(ring)
    }
    for column, part in (("other_image", 0), ("other_image_sha256", 1)):
        drawn = drawn.append_column(column, pa.array([partners[image][part] for image, _ in named], pa.string()))
    return drawn.filter(drawn["parsed"])


def explain_other_images(
    vlm: Vlm,
    chat: Chat,
    probes: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """Let the model explain the score that it stated, but for the partner; `OTHER_EXPLANATIONS`.

    The injected beginning is exactly the model's own answer up to the tag of the explanation, and its tokens count for
    the answer's length. So for the image itself the model would write the stored explanation again.
    """
    rows = []
    records = probes.select(["image", "other_image", "other_image_sha256", "text"]).to_pylist()
    for row in records:
        row["beginning"] = row["text"][: row["text"].index(_TAG) + len(_TAG)]
        row["room"] = max(1, max_new_tokens - answer_tokens(vlm, row["beginning"]))
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        for room, same in groupby(sorted(batch, key=lambda row: row["room"]), key=lambda row: row["room"]):
            asked = list(same)
            partners = [open_image(row["other_image"], row["other_image_sha256"]) for row in asked]
            questions = [
                Question(chat, [partner], [row["beginning"]]) for row, partner in zip(asked, partners, strict=True)
            ]
            found = generate_answers(vlm, questions, Greedy(max_new_tokens=room))
            said = [result.text.strip() for (result,) in found.answers]
            rows += [{"image": row["image"], "other_explanation": text} for row, text in zip(asked, said, strict=True)]
        progress.advance(len(batch))
    return pa.Table.from_pylist(rows, schema=OTHER_EXPLANATIONS.schema)


def rescore(probes: pa.Table) -> pa.Table:
    """The questions about the same images with another score, five away: the image is its own partner."""
    rows = probes.to_pylist()
    for row in rows:
        stated = f"{row['stated_score']}"
        row |= {"other_image": row["image"], "other_image_sha256": row["image_sha256"]}
        row["text"] = row["text"].replace(stated, f"{other_score(row['stated_score'])}", 1)
    return pa.Table.from_pylist(rows, schema=probes.schema)


def other_score(stated: int) -> int:
    """The injected score of `rescore`."""
    return (stated + 5) % 10


class Replies(NamedTuple):
    """What a model said when it was probed."""

    other_images: pa.Table  # OTHER_EXPLANATIONS of other images
    other_scores: pa.Table  # OTHER_EXPLANATIONS of the same images with other scores
    texts_alone: pa.Table  # TEXT_SCORES


def faithfulness_table(judge: RoundTripJudge, probes: pa.Table, replies: Replies) -> pa.Table:
    """The results of the probe for each explanation, in `FAITHFULNESS`."""
    other, rescored = (
        {row["image"]: row["other_explanation"] for row in table.to_pylist()}
        for table in (replies.other_images, replies.other_scores)
    )
    alone = {row["image"]: row["text_distribution"] for row in replies.texts_alone.to_pylist()}
    columns = ["image", "image_sha256", "group", "score", "score_distribution"]
    rows = probes.select([*columns, "stated_score", "explanation", "other_image"]).to_pylist()
    recovered = judge.recover([row["explanation"] for row in rows]).tolist() if rows else []
    for row, score in zip(rows, recovered, strict=True):
        mentioned = mentioned_scores(row["explanation"])
        row |= {
            "recovered_score": score,
            "other_explanation": other[row["image"]],
            "text_change": text_change(row["explanation"], other[row["image"]]),
            "other_score": other_score(row["stated_score"]),
            "other_score_explanation": rescored[row["image"]],
            "score_change": text_change(row["explanation"], rescored[row["image"]]),
            "text_distribution": alone[row["image"]],
            "mentions_own_score": row["stated_score"] in mentioned,
            "mentions_other_score": bool(mentioned - {row["stated_score"]}),
        }
    return conform(pa.Table.from_pylist(rows), FAITHFULNESS.schema) if rows else FAITHFULNESS.schema.empty_table()


def text_change(one: str, other: str) -> float:
    """1 - F1 of the two texts' words, lower-cased and counted: 0 the same words (in any order), 1 no word in common."""
    a, b = (Counter(_WORD.findall(text.lower())) for text in (one, other))
    if not a and not b:
        return 0.0
    return 1.0 - 2 * (a & b).total() / (a.total() + b.total())


def faithfulness_metrics(faithfulness: pa.Table, predictions: pa.Table, config: Bootstrap, seed: int) -> pa.Table:
    """The figures of one model on test with intervals, in `METRICS`.

    `recovered_spearman`, `recovered_mae`: stated score against the one read from the text alone, without its numbers.
    `text_change`, `same_text_rate`: of explanations of one score for two images, mean change and share of equal ones.
    `text_change_baseline`: mean change between the model's own answers to the two images, each with its own score:
    how different its texts are anyway, to compare with `text_change`.
    `score_change`: mean change when another score is injected for the same image.
    `srcc_from_image`, `srcc_from_text`, `image_text_gap`: rank correlation of the true score with the expected digit
    that the model reads from the image, and from its own explanation without the image; and the first less the second.
    `mentions_own_score`, `mentions_other_score`: share of explanations that name the stated, or another, score.
    """
    explained = {
        row["image"]: row["explanation"]
        for row in predictions.filter(pc.equal(predictions["split"], "test")).to_pylist()
        if row["parsed"]
    }
    rows = faithfulness.to_pylist()
    own = [row for row in rows if row["other_image"] in explained]
    baseline = [text_change(row["explanation"], explained[row["other_image"]]) for row in own]
    stated, recovered = (
        np.array([row[column] for row in rows], dtype=np.float64) for column in ("stated_score", "recovered_score")
    )
    settings: dict[str, Any] = {"samples": config.bootstrap_samples, "confidence": config.confidence, "seed": seed}
    figures: dict[str, Callable[..., Any]] = {
        "recovered_spearman": partial(srcc, stated, recovered),
        "recovered_mae": partial(mae, stated, recovered),
        "text_change": partial(mean, np.array([row["text_change"] for row in rows], dtype=np.float64)),
        "score_change": partial(mean, np.array([row["score_change"] for row in rows], dtype=np.float64)),
        **image_text_gap(rows),
    }
    found = grouped_estimates(figures, groups=_groups(rows), **settings)
    found["text_change_baseline"] = grouped_estimate(
        mean, np.array(baseline, dtype=np.float64), groups=_groups(own), **settings
    )
    shares = {
        "same_text_rate": [row["explanation"] == row["other_explanation"] for row in rows],
        "mentions_own_score": [row["mentions_own_score"] for row in rows],
        "mentions_other_score": [row["mentions_other_score"] for row in rows],
    }
    for name, hits in shares.items():
        found[name] = rate_estimate(np.array(hits, dtype=bool), groups=_groups(rows), **settings)
    return pa.Table.from_pylist([metric_row("test", name, estimate) for name, estimate in found.items()])


def _groups(rows: list[dict[str, Any]]) -> NDArray[np.str_]:
    return np.array([row["group"] for row in rows], dtype=np.str_)
