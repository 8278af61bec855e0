"""How well a judge judges: accuracy in one and both orders, by dimension; biases of place and length; calibration."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL.Image import Image

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_judge.tables import JUDGEMENTS
from pipeline_lib.methods.self_judge.traces import LETTERS
from pipeline_lib.metrics.figures import mean
from pipeline_lib.metrics.intervals import grouped_estimates
from pipeline_lib.progress import Progress
from pipeline_lib.tables.metrics import METRICS

if TYPE_CHECKING:
    from pipeline_lib.judges.vlm_judge import JudgePrompt
    from pipeline_lib.vlm.load import Vlm

Array = NDArray[np.float64]

CALIBRATION_BINS = 5
"""Equal parts of .5 to 1, in which confidence and accuracy are compared."""


def judge_pairs(
    vlm: "Vlm",
    prompt: "JudgePrompt",
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """One row of `JUDGEMENTS` a pair of `ANSWER_PAIRS`: greedy answers with the better answer as A and as B."""
    from pipeline_lib.judges.vlm_judge import judge_answers
    from pipeline_lib.vlm.generate import Greedy

    records = []
    for pair in pairs.to_pylist():
        for letter in LETTERS:
            a, b = (pair["better"], pair["worse"]) if letter == "A" else (pair["worse"], pair["better"])
            records.append(pair | {"a": a, "b": b, "key": f"{pair['pair_id']}:{letter}"})
    answers = judge_answers(
        vlm,
        prompt,
        records,
        open_image,
        decoding=Greedy(max_new_tokens=max_new_tokens),
        batch_size=batch_size,
        progress=progress,
        probabilities=True,
    )
    rows = []
    for at, pair in enumerate(pairs.to_pylist()):
        (first,), (second,) = answers[2 * at], answers[2 * at + 1]
        rows.append(
            {name: pair[name] for name in JUDGEMENTS.schema.names if name in pair}
            | {
                "text_first": first.text,
                "text_second": second.text,
                "verdict_first": first.verdict,
                "verdict_second": second.verdict,
                "p_better_first": first.p_a,
                "p_better_second": None if second.p_a is None else 1 - second.p_a,
            }
        )
    return pa.Table.from_pylist(rows, schema=JUDGEMENTS.schema)


def judgement_metrics(judgements: pa.Table, split: str, config: Bootstrap, seed: int) -> pa.Table:
    """Figures with intervals over groups of images, in `METRICS`.

    `accuracy` is the mean over both orders and `both_orders` the share of pairs that are right in both; a verdict that
    is missing counts as wrong. `consistency` is the share of pairs whose two verdicts name one answer. `says_a` is the
    share of A among the verdicts: .5 without a bias of position. `prefers_longer` is the share of verdicts for the
    longer answer, less the share of pairs whose longer answer is the better one, over pairs of unequal length: 0
    without a bias of length. `calibration_error` is the mean distance of confidence and accuracy over
    `CALIBRATION_BINS` bins, by the mean probability of both orders. `accuracy: <dimension>` is that of one dimension.
    """
    facts = Facts.of(judgements)
    dimensions = sorted(set(judgements["dimension"].to_pylist()))
    everyone = np.ones(len(facts.accuracy), dtype=bool)
    wanted: list[tuple[str, NDArray[np.bool_], Callable[[NDArray[np.bool_]], Callable[[Array], Array]]]] = [
        ("accuracy", everyone, lambda at: partial(mean, facts.accuracy[at])),
        ("both_orders", everyone, lambda at: partial(mean, facts.both[at])),
        ("consistency", everyone, lambda at: partial(mean, facts.consistent[at])),
        ("parse_rate", everyone, lambda at: partial(mean, facts.parsed[at])),
        ("says_a", facts.parsed > 0, lambda at: partial(_ratio, facts.says_a[at], facts.parsed[at])),
        ("prefers_longer", facts.longer != 0, lambda at: partial(mean, facts.length_bias[at])),
        ("calibration_error", np.isfinite(facts.p_better), lambda at: partial(calibration_error, facts.p_better[at])),
    ]
    for name in dimensions:
        of = np.array([found == name for found in judgements["dimension"].to_pylist()], dtype=bool)
        wanted.append((f"accuracy: {name}", of, lambda at: partial(mean, facts.accuracy[at])))
    groups = np.array(judgements["group"].to_pylist(), dtype=np.str_)
    rows: list[dict[str, Any]] = []
    for name, at, figure in wanted:
        found = grouped_estimates(
            {name: figure(at)},
            groups=groups[at],
            samples=config.bootstrap_samples,
            confidence=config.confidence,
            seed=seed,
        )[name]
        rows.append({"split": split, "metric": name, **found._asdict()})
    return pa.Table.from_pylist(rows, schema=METRICS.schema)


class Facts(NamedTuple):
    """What each pair says for the figures; arrays of shape (pairs,)."""

    accuracy: Array  # 0, .5 or 1
    both: Array
    consistent: Array
    parsed: Array  # share of the two verdicts that are there
    says_a: Array  # verdicts A, as a share of two
    longer: Array  # 1: the better answer is the longer one, -1: the worse one, 0: equal
    length_bias: Array  # share of two verdicts for the longer answer, less whether it is the better one
    p_better: Array  # mean over both orders; NaN where one was not read

    @classmethod
    def of(cls, judgements: pa.Table) -> "Facts":
        """Of a table `JUDGEMENTS`."""
        first, second = (judgements[name].to_pylist() for name in ("verdict_first", "verdict_second"))
        right_first = np.array([letter == "A" for letter in first], dtype=np.float64)
        right_second = np.array([letter == "B" for letter in second], dtype=np.float64)
        there = [np.array([letter is not None for letter in said], dtype=np.float64) for said in (first, second)]
        consistent = [
            None not in (one, other) and one != other for one, other in zip(first, second, strict=True)
        ]  # one letter in both orders names two answers
        a = [np.array([letter == "A" for letter in said], dtype=np.float64) for said in (first, second)]
        longer = np.array(
            [
                np.sign(len(row["better"]) - len(row["worse"]))
                for row in judgements.select(["better", "worse"]).to_pylist()
            ],
            dtype=np.float64,
        )
        worse = there[0] - right_first + there[1] - right_second
        for_longer = np.where(longer > 0, right_first + right_second, worse) / 2
        p = [judgements[name].to_numpy().astype(np.float64) for name in ("p_better_first", "p_better_second")]
        return cls(
            (right_first + right_second) / 2,
            right_first * right_second,
            np.array(consistent, dtype=np.float64),
            (there[0] + there[1]) / 2,
            (a[0] + a[1]) / 2,
            longer,
            for_longer - (longer > 0),
            (p[0] + p[1]) / 2,
        )


def _ratio(values: Array, of: Array, weights: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ values) / (weights @ of))


def calibration_error(p_better: Array, weights: Array) -> Array:
    """Mean distance of confidence and accuracy over equal bins of confidence .5 .. 1, each weighted with its pairs.

    The confidence is the larger one of the probability of the better answer and its complement.
    """
    confidence = np.maximum(p_better, 1 - p_better)
    right = (p_better > 0.5).astype(np.float64)
    at = calibration_bin(confidence)
    total = np.zeros(len(weights))
    for number in range(CALIBRATION_BINS):
        inside = at == number
        total += np.abs(weights[:, inside] @ (right - confidence)[inside])
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weights.sum(axis=1))


def calibration_bin(confidence: Array) -> NDArray[np.int64]:
    """The bin, 0 .. `CALIBRATION_BINS` - 1, of confidences .5 .. 1."""
    return np.clip(((confidence - 0.5) * 2 * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)


def held_out_pairs(synthesis: pa.Table) -> pa.Table:
    """Synthetic pairs as `ANSWER_PAIRS`; the dimension is the kind of question."""
    found = synthesis.filter(pc.equal(synthesis["status"], "pair"))
    return found.append_column("dimension", found["kind"])
