"""The figures Cons, Use and Gen from verdicts (section 4.3)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_lib.config.base import Bootstrap, Split
from pipeline_lib.methods.self_improve.round_trip import RoundTripJudge, grade
from pipeline_lib.metrics.chance import chance_corrected, chance_level
from pipeline_lib.metrics.figures import mean
from pipeline_lib.metrics.intervals import grouped_estimates, rate_estimate
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.sampling import draw_rows

Array = NDArray[np.float64]
Figure = Callable[[pa.Table], Callable[[Array], Array]]

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
    `unscored_rate` is the share of explanations for which the judge gave no usable verdict. For the round-trip judge
    `cons_chance` is the expected Cons if the explanations were shuffled over all images of the split, and
    `cons_corrected` is (Cons - chance) / (4 - chance).
    """
    rows = []
    for split in ("val", "test"):
        of = verdicts.filter(pc.equal(verdicts["split"], split))
        given = of.filter(pc.not_equal(of["status"], "unparsed"))
        scored = given.filter(pc.equal(given["status"], "scored"))
        figures: dict[str, tuple[pa.Table, Figure]] = {
            figure: (scored.filter(pc.is_valid(scored[column])), partial(_mean_of, column))
            for figure, column in FIGURES.items()
            if figure == "cons" or verdicts[column].null_count < verdicts.num_rows
        }
        if verdicts["recovered_score"].null_count < verdicts.num_rows:
            figures |= {"cons_chance": (scored, _chance), "cons_corrected": (scored, _corrected)}
        settings: Any = {"samples": config.bootstrap_samples, "confidence": config.confidence, "seed": seed}
        for name, (graded, figure) in figures.items():
            estimate = grouped_estimates({name: figure(graded)}, groups=_groups(graded), **settings)[name]
            rows.append({"split": split, "metric": name, **estimate._asdict()})
        unscored = np.array([status != "scored" for status in given["status"].to_pylist()], dtype=bool)
        rate = rate_estimate(unscored, groups=_groups(given), **settings)
        rows.append({"split": split, "metric": "unscored_rate", **rate._asdict()})
    return pa.Table.from_pylist(rows)


def gaming_metrics(judge: RoundTripJudge, verdicts: pa.Table, predictions: pa.Table) -> pa.Table:
    """Cons on test of texts that say nothing of the image, for the digits that the model stated, in `METRICS`.

    `cons_ten_texts`: each digit has one text for all images, the explanation of the validation images that the judge
    reads nearest to the digit. `cons_one_word`: each digit has one word of the judge's own terms. A Cons near these
    shows no knowledge of the image. There are no intervals, because the texts are chosen and not sampled.
    """
    test = verdicts.filter(pc.and_(pc.equal(verdicts["split"], "test"), pc.equal(verdicts["status"], "scored")))
    stated = test["stated_score"].to_numpy().astype(np.float64)
    val = predictions.filter(pc.equal(predictions["split"], "val"))
    pools = {
        "cons_ten_texts": val["explanation"].drop_null().to_pylist(),
        "cons_one_word": [term for term in judge.vectorizer.vocabulary_ if " " not in term],
    }
    rows = []
    for name, texts in pools.items():
        value = float("nan")
        if texts and len(stated):
            read = judge.recover(texts)
            nearest = np.array([read[np.abs(read - digit).argmin()] for digit in range(10)])
            value = float(grade(stated, nearest[stated.astype(np.int64)]).mean())
        estimate = Estimate(value, float("nan"), float("nan"), len(stated))
        rows.append({"split": "test", "metric": name, **estimate._asdict()})
    return pa.Table.from_pylist(rows)


def _groups(rows: pa.Table) -> NDArray[np.str_]:
    return np.array(rows["group"].to_pylist(), dtype=np.str_)


def _mean_of(column: str, rows: pa.Table) -> Callable[[Array], Array]:
    return partial(mean, rows[column].to_numpy().astype(np.float64))


def _chance(rows: pa.Table) -> Callable[[Array], Array]:
    stated, recovered = (rows[name].to_numpy().astype(np.float64) for name in ("stated_score", "recovered_score"))
    return partial(chance_level, grade, stated, recovered)


def _corrected(rows: pa.Table) -> Callable[[Array], Array]:
    plain, chance = _mean_of("consistency", rows), _chance(rows)
    return lambda weights: chance_corrected(plain(weights), chance(weights))
