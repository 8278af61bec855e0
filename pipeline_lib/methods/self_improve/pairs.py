"""The pairs of a training, and the answers that the reference reads."""

import logging

import numpy as np
import pyarrow as pa

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.answer import EXPLAIN_TAG
from pipeline_lib.train.pairs import check_lengths

log = logging.getLogger("whyscore.train")

PAIR_ANSWERS = ("chosen", "rejected", "swapped")
"""A pair's own answers, and the rejected one with the true score where there is a consistency pair."""


def usable_pairs(pairs: pa.Table, max_length: int) -> pa.Table:
    """Pairs for training: rows with an empty explanation are left out and counted in the log.

    Supervised training needs only the chosen answers but takes the same rows, so that it sees the same images as DPO.
    Raises `DataError` naming the rows that are longer than `max_length` tokens, and when no row is left.
    """
    check_lengths(pairs, max_length)
    keep = [flaw != "empty" for flaw in _flaws(pairs)]
    if not any(keep):
        raise DataError(
            "no pair has two explanations; the model that generated them has collapsed (see its parse rate)"
        )
    if not all(keep):
        log.warning("%d of %d pairs are left out of training: an explanation is empty", keep.count(False), len(keep))
    return pairs.filter(pa.array(keep))


def distinct_pairs(pairs: pa.Table) -> pa.Table:
    """Pairs for DPO: rows whose two answers have the same text are left out and counted in the log.

    The preference term of such a pair has no gradient but rounding, and the pair would make the mean over a batch
    smaller. Its likelihood term (`training.sft_weight`) is left out with it. A difference in `finished` alone is no
    other text. Raises `DataError` when no row is left.
    """
    keep = [flaw != "equal" for flaw in _flaws(pairs)]
    if not any(keep):
        raise DataError(
            f"the two answers of all {len(keep)} pairs are equal; the model that generated them writes one text for all"
            " scores"
        )
    if not all(keep):
        log.warning("%d of %d pairs are left out of training: both answers are equal", keep.count(False), len(keep))
    return pairs.filter(pa.array(keep))


def pair_metrics(pairs: pa.Table) -> pa.Table:
    """The shares of pairs that DPO leaves out, in `METRICS` without intervals.

    `empty_share` counts pairs with an empty explanation (`usable_pairs`), `equal_share` those of the others with two
    equal answers (`distinct_pairs`).
    """
    flaws = _flaws(pairs)
    return pa.Table.from_pylist(
        [
            {
                "split": "train",
                "metric": f"{flaw}_share",
                "value": flaws.count(flaw) / max(len(flaws), 1),
                "low": np.nan,
                "high": np.nan,
                "rows": len(flaws),
            }
            for flaw in ("empty", "equal")
        ]
    )


def score_parts(pairs: pa.Table) -> pa.Table:
    """The pairs with the chosen answer cut to its score, `#Score: 7`, which no end token follows (decision 6).

    The model must learn the score, and not that an answer ends behind it.
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
    """The score pairs for training, with `swapped`: the rejected answer of the consistency pair, or null.

    Each row has the size of its image. Rows of both tables are left out and refused as in `usable_pairs`.
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


def _flaws(pairs: pa.Table) -> list[str | None]:
    """For each pair why DPO cannot learn from it, None when it can."""
    answers = zip(pairs["chosen"].to_pylist(), pairs["rejected"].to_pylist(), strict=True)
    return [
        "empty" if _is_empty(chosen) or _is_empty(rejected) else "equal" if chosen == rejected else None
        for chosen, rejected in answers
    ]


def _is_empty(answer: str) -> bool:
    return not answer.partition(EXPLAIN_TAG)[2].strip()
