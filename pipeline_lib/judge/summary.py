"""From verdicts to the figure Cons (section 4.3)."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.metrics.evaluation import metric_row
from pipeline_lib.metrics.scores import mean_estimate
from pipeline_lib.preference.draw import draw_rows
from pipeline_lib.recipe import Evaluation


def draw_for_judge(predictions: pa.Table, rows: int | None, seed: int) -> pa.Table:
    """At most `rows` predictions of each split, the same images for every model of a run (A.1: 1,000 on AVA)."""
    parts = []
    for split in ("val", "test"):
        part = predictions.filter(pc.equal(predictions["split"], split))
        parts.append(draw_rows(part, min(1.0, rows / max(part.num_rows, 1)) if rows else 1.0, f"{seed}:judge_rows"))
    return pa.concat_tables(parts)


def cons_metrics(verdicts: pa.Table, config: Evaluation, seed: int) -> pa.Table:
    """`cons` of each split in `schemas.METRICS`: the mean consistency 0..4 of the scored explanations, with interval.

    Unparsed answers have no explanation and are not in the mean (the parse rate counts them).
    """
    rows = []
    for split in ("val", "test"):
        of = verdicts.filter(pc.and_(pc.equal(verdicts["split"], split), pc.equal(verdicts["status"], "scored")))
        grades = of["consistency"].to_numpy().astype(np.float64)
        mean = mean_estimate(grades, samples=config.bootstrap_samples, confidence=config.confidence, seed=seed)
        rows.append(metric_row(split, "cons", mean))
    return pa.Table.from_pylist(rows)
