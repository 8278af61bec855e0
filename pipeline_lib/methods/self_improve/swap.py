"""Consistency pairs: both answers state the true score, only one was written for it (section 3.1, Fig. 3)."""

import pyarrow as pa

from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.sampling import draw_rows


def swap_scores(score_pairs: pa.Table) -> pa.Table:
    """Give each rejected explanation the true score, so that only the text can be wrong (section 3.1, Fig. 3).

    Input and output follow `CONSISTENCY_PAIRS`, one row per image. Token counts stay: every score is one token.
    """
    rejected = [
        answer_prefix(row["true_score"]) + row["rejected"].removeprefix(answer_prefix(row["wrong_score"]))
        for row in score_pairs.select(["true_score", "wrong_score", "rejected"]).to_pylist()
    ]
    at = score_pairs.column_names.index("rejected")
    return score_pairs.set_column(at, "rejected", pa.array(rejected, pa.string()))


def make_consistency_pairs(score_pairs: pa.Table, fraction: float, seed: int, iteration: int) -> pa.Table:
    """Swap a share of the score pairs, drawn again in each iteration (appendix A.1: 30 % on AVA)."""
    return swap_scores(draw_rows(score_pairs, fraction, f"{seed}:{iteration}:swap"))
