"""Which pairs a training takes, and which answers of them the reference reads."""

import logging

import pyarrow as pa

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.answer import EXPLAIN_TAG
from pipeline_lib.train.pairs import check_lengths

log = logging.getLogger("whyscore.train")

PAIR_ANSWERS = ("chosen", "rejected", "swapped")
"""A pair's own answers, and the rejected one with the true score where there is a consistency pair."""


def usable_pairs(pairs: pa.Table, max_length: int) -> pa.Table:
    """Pairs that can be trained on: rows in which either explanation is empty are left out, counted in the log.

    Supervised training, which needs the chosen side alone, takes the same rows, so that what is compared with DPO has
    seen the same images. Raises `DataError` naming the rows that are longer than `max_length` tokens, and when no row
    is left.
    """
    check_lengths(pairs, max_length)
    sides = (pairs["chosen"].to_pylist(), pairs["rejected"].to_pylist())
    keep = [not (_is_empty(chosen) or _is_empty(rejected)) for chosen, rejected in zip(*sides, strict=True)]
    if not any(keep):
        raise DataError("no pair has two explanations; the model that generated them has collapsed, see its parse rate")
    if not all(keep):
        log.warning("%d of %d pairs are left out of training: an explanation is empty", keep.count(False), len(keep))
    return pairs.filter(pa.array(keep))


def score_parts(pairs: pa.Table) -> pa.Table:
    """The pairs with the chosen answer cut to its score, `#Score: 7`, which no end token follows (decision 6).

    The model is to be taught the score, and not that an answer ends behind it.
    """
    scores = [text.partition("\n")[0] for text in pairs["chosen"].to_pylist()]
    for name, column in (
        ("chosen", pa.array(scores, pa.string())),
        ("chosen_finished", pa.array([False] * len(scores))),
    ):
        pairs = pairs.set_column(pairs.column_names.index(name), name, column)
    return pairs


def answers_of_pairs(
    score_pairs: pa.Table, consistency_pairs: pa.Table | None, images: pa.Table, max_length: int
) -> pa.Table:
    """The score pairs that can be trained on, with `swapped`: what is rejected in the consistency pair, else null.

    The size of each image stands beside them. Leaves out and refuses what `usable_pairs` does, of both tables.
    """
    rejected: dict[str, str] = {}
    if consistency_pairs is not None:
        usable = usable_pairs(consistency_pairs, max_length)
        rejected = dict(zip(usable["image"].to_pylist(), usable["rejected"].to_pylist(), strict=True))
    pairs = usable_pairs(score_pairs, max_length)
    names = pairs["image"].to_pylist()
    sizes = {row["image"]: row for row in images.select(["image", "width_px", "height_px"]).to_pylist()}
    for side in ("width_px", "height_px"):
        pairs = pairs.append_column(side, pa.array([sizes[name][side] for name in names], pa.int32()))
    return pairs.append_column("swapped", pa.array([rejected.get(name) for name in names], pa.string()))


def _is_empty(answer: str) -> bool:
    return not answer.partition(EXPLAIN_TAG)[2].strip()
