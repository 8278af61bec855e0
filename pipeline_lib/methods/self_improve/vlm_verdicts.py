"""A VLM judge rates explanations with the image before it, by comparing each with three other texts.

The judge names the better one of two answers, so a grade is made of comparisons: 4 if it prefers the explanation in
both orders, 2 in one, 0 in none.

- *true of the image*: against the explanation of another image of the same stated score. The texts fit one score, so
  only the image tells them apart: this is the control of explanations that are shuffled among images.
- *fits the score*: against the explanation of another image whose stated score is at least `FAR` away.
- *useful*: against one fixed text for each score, which says nothing of the image: the control of ten fixed texts.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL.Image import Image

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.prompt import Criterion
from pipeline_lib.methods.self_improve.round_trip import RoundTripJudge, grade
from pipeline_lib.methods.self_improve.tables import VLM_COMPARISONS, VLM_VERDICTS
from pipeline_lib.metrics.figures import mean
from pipeline_lib.metrics.intervals import grouped_estimates
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw
from pipeline_lib.tables.metrics import METRICS

if TYPE_CHECKING:
    from pipeline_lib.judges.vlm_judge import JudgePrompt
    from pipeline_lib.vlm.load import Vlm

ASPECTS = ("true_of_image", "fits_score", "useful")
FAR = 3
"""Bins by which the stated score of the other text differs where the judge is asked which one fits the score."""

_QUESTIONS = {
    "true_of_image": "What does the image show that explains its {value}?",
    "fits_score": "Why has the image the {score} {number} on the scale {scale}?",
    "useful": "What in this image explains its {value}?",
}


def comparisons(
    explained: pa.Table, images: pa.Table, judge: RoundTripJudge, criterion: Criterion, pool: Sequence[str], seed: int
) -> pa.Table:
    """Rows of `VLM_COMPARISONS`: each explanation of `PREDICTIONS` against its three other texts.

    `pool` holds the texts that the ten fixed ones are chosen from: for each digit the one that the round-trip judge
    reads nearest to it. An explanation without a partner (no other image of its score, none far from it), or one whose
    partner has the same words, has no row of that aspect.
    """
    facts = {row["image"]: row for row in images.select(["image", "width_px", "height_px"]).to_pylist()}
    rows = [row for row in explained.to_pylist() if row["explanation"]]
    read = judge.recover(list(pool)) if pool else np.empty(0)
    fixed = {digit: pool[int(np.abs(read - digit).argmin())] for digit in range(10)} if pool else {}
    found = []
    for row in rows:
        score = row["stated_score"]
        others = {
            "true_of_image": [o for o in rows if o["stated_score"] == score and o["image"] != row["image"]],
            "fits_score": [o for o in rows if abs(o["stated_score"] - score) >= FAR],
        }
        texts = {
            aspect: _drawn(of, f"{seed}:{aspect}", row["image"])["explanation"] for aspect, of in others.items() if of
        }
        texts |= {"useful": fixed[score]} if fixed else {}
        for aspect, other in texts.items():
            if other.split() == row["explanation"].split():
                continue
            words = {"value": criterion.value, "score": criterion.score, "scale": criterion.scale, "number": score}
            found.append(
                {name: row[name] for name in ("image", "image_sha256", "group", "stated_score", "explanation")}
                | facts[row["image"]]
                | {"aspect": aspect, "question": _QUESTIONS[aspect].format(**words), "other": other}
            )
    return pa.Table.from_pylist(found, schema=VLM_COMPARISONS.schema)


def _drawn(rows: list[dict[str, Any]], purpose: str, image: str) -> dict[str, Any]:
    return rows[int(draw(purpose, image) * len(rows))]


def compare(
    vlm: "Vlm",
    prompt: "JudgePrompt",
    rows: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """One row of `VLM_VERDICTS` a row of `VLM_COMPARISONS`: the judge's greedy verdicts in both orders."""
    from pipeline_lib.judges.vlm_judge import judge_answers
    from pipeline_lib.vlm.generate import Greedy

    asked = rows.to_pylist()
    records = []
    for row in asked:
        for a, b in ((row["explanation"], row["other"]), (row["other"], row["explanation"])):
            records.append(row | {"a": a, "b": b, "key": f"{row['image']}:{row['aspect']}"})
    decoding = Greedy(max_new_tokens=max_new_tokens)
    answers = judge_answers(
        vlm, prompt, records, open_image, decoding=decoding, batch_size=batch_size, progress=progress
    )
    found = []
    for at, row in enumerate(asked):
        (first,), (second,) = answers[2 * at], answers[2 * at + 1]
        both = None not in (first.verdict, second.verdict)
        wins = (first.verdict == "A") + (second.verdict == "B")
        found.append(
            {name: row[name] for name in VLM_VERDICTS.schema.names if name in row}
            | {"reason": first.text, "grade": 2 * wins if both else None}
        )
    return pa.Table.from_pylist(found, schema=VLM_VERDICTS.schema)


def vlm_judge_metrics(verdicts: pa.Table, judge: RoundTripJudge, config: Bootstrap, seed: int) -> pa.Table:
    """Mean grades 0..4 on test by aspect, and how often the explanation ranks above the other text, in `METRICS`.

    `above_shuffled` and `above_fixed` are shares, a tie counts as half: of the explanation above that of another image
    with its score, and above the fixed text of its score. `round_trip_above_shuffled` and `round_trip_above_fixed` say
    the same of the grades of the round-trip judge, which sees no image. .5 means that a judge does not tell them apart.
    """
    rows = []
    for aspect, ranks in (("true_of_image", "shuffled"), ("fits_score", ""), ("useful", "fixed")):
        part = verdicts.filter(pc.and_(pc.equal(verdicts["aspect"], aspect), pc.is_valid(verdicts["grade"])))
        grades = part["grade"].to_numpy().astype(np.float64)
        columns = {f"vlm_{aspect}": grades}
        if ranks:
            columns[f"above_{ranks}"] = grades / 4
            columns[f"round_trip_above_{ranks}"] = _round_trip_wins(part, judge)
        groups = np.array(part["group"].to_pylist(), dtype=np.str_)
        for name, values in columns.items():
            estimate = grouped_estimates(
                {name: lambda weights, values=values: mean(values, weights)},  # type: ignore[misc]
                groups=groups,
                samples=config.bootstrap_samples,
                confidence=config.confidence,
                seed=seed,
            )[name]
            rows.append({"split": "test", "metric": name, **estimate._asdict()})
    of = verdicts["grade"]
    without = float(of.null_count / max(1, len(of)))
    nan = float("nan")
    unparsable = {"value": without, "low": nan, "high": nan, "rows": len(of)}
    rows.append({"split": "test", "metric": "vlm_unparsable"} | unparsable)
    return pa.Table.from_pylist(rows, schema=METRICS.schema)


def _round_trip_wins(part: pa.Table, judge: RoundTripJudge) -> NDArray[np.float64]:
    """1 where the round-trip judge grades the explanation above the other text, .5 where both are equal."""
    if not part.num_rows:
        return np.empty(0)
    stated = part["stated_score"].to_numpy().astype(np.float64)
    own, other = (
        grade(stated, judge.recover(part[name].to_pylist())).astype(np.float64) for name in ("explanation", "other")
    )
    return np.asarray((np.sign(own - other) + 1) / 2)


def is_fooled(metrics: pa.Table) -> list[str]:
    """The controls that the judge does not tell from the explanations: the interval of its share is not above .5."""
    names = {"above_shuffled": "explanations of other images with the same score", "above_fixed": "ten fixed texts"}
    found = {row["metric"]: row["low"] for row in metrics.to_pylist()}
    return [text for name, text in names.items() if not found.get(name, float("nan")) > 0.5]
