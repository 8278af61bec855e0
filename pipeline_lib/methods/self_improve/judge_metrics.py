"""The figures Cons, Use and Gen from verdicts (section 4.3)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.config.base import Bootstrap, Split
from pipeline_lib.metrics.scores import mean_estimate
from pipeline_lib.sampling import draw_rows

FIGURES = {"cons": "consistency", "use": "usefulness", "gen": "general"}
"""The paper's names of the mean grades (Table 5), and their columns in `VERDICTS`."""


def draw_for_judge(
    predictions: pa.Table, rows: int | None, seed: int, splits: Sequence[Split] = ("val", "test")
) -> pa.Table:
    """At most `rows` predictions of each split, the same images for every model of a run (A.1: 1,000 on AVA)."""
    parts = []
    for split in splits:
        part = predictions.filter(pc.equal(predictions["split"], split))
        parts.append(draw_rows(part, min(1.0, rows / max(part.num_rows, 1)) if rows else 1.0, f"{seed}:judge_rows"))
    return pa.concat_tables(parts)


def judge_metrics(verdicts: pa.Table, config: Bootstrap, seed: int) -> pa.Table:
    """Mean grades 0..4 of each split with intervals, in `METRICS`: `cons`, and `use` and `gen` if judged.

    Only verdicts with status `scored` count. Unparsed answers have no explanation (the parse rate counts them);
    `unscored_rate` is the share of explanations for which the judge gave no usable verdict.
    """
    rows = []
    for split in ("val", "test"):
        of = verdicts.filter(pc.equal(verdicts["split"], split))
        given = of.filter(pc.not_equal(of["status"], "unparsed"))
        scored = given.filter(pc.equal(given["status"], "scored"))
        figures = {
            figure: scored[column].drop_null().to_numpy().astype(np.float64)
            for figure, column in FIGURES.items()
            if figure == "cons" or verdicts[column].null_count < verdicts.num_rows
        }
        figures["unscored_rate"] = np.array([status != "scored" for status in given["status"].to_pylist()], np.float64)
        for figure, values in figures.items():
            mean = mean_estimate(values, samples=config.bootstrap_samples, confidence=config.confidence, seed=seed)
            rows.append({"split": split, "metric": figure, **mean._asdict()})
    return pa.Table.from_pylist(rows)
