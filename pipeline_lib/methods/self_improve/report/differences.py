"""Paired differences of the models of a run: how a figure changed, on the same test images, and the word for it."""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.report.contents import Difference, ModelResults, OtherResults
from pipeline_lib.methods.self_improve.report.lineage import is_on_main_line, on_split
from pipeline_lib.methods.self_improve.round_trip import grade
from pipeline_lib.methods.self_improve.tables import DIFFERENCES
from pipeline_lib.metrics.chance import chance_corrected, chance_level
from pipeline_lib.metrics.figures import mae, mean, srcc
from pipeline_lib.metrics.intervals import change, grouped_estimates, paired_difference
from pipeline_lib.metrics.readings import stated_digits
from pipeline_lib.metrics.scores import Estimate

Array = NDArray[np.float64]


class _Pair(NamedTuple):
    """The rows of two models for the same images, in one order."""

    earlier: list[dict[str, Any]]
    later: list[dict[str, Any]]


def differences(models: list[ModelResults], config: Bootstrap, seed: int) -> pa.Table:
    """Later less earlier model on test, for every comparison that a report's sentences make, in `DIFFERENCES`.

    Compared are each model of the main line with zero-shot, with iteration 1 and with the one before, and each merged
    model with its two parents. SRCC, MAE and parse rate are of all test images; Cons is of the images whose
    explanations the leading judge graded for both. Resamples of groups serve both models.
    """
    rows = [row for earlier, later in _comparisons(models) for row in _compare(earlier, later, config, seed)]
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=DIFFERENCES.schema)


def other_difference(before: OtherResults, after: OtherResults, config: Bootstrap, seed: int) -> Estimate:
    """SRCC of the later model's predictions on another data set, less that of the earlier one's, on the same images."""
    first, second = ({row["image"]: row for row in side.predictions.to_pylist()} for side in (before, after))
    pair = _Pair(list(first.values()), [second[image] for image in first])
    return paired_difference(
        srcc,
        _column(pair.earlier, "score"),
        *(_column(rows, "predicted") for rows in pair),
        groups=np.array([row["group"] for row in pair.earlier], dtype=np.str_),
        samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=seed,
    )


def _comparisons(models: list[ModelResults]) -> list[tuple[ModelResults, ModelResults]]:
    line = [model for model in models if is_on_main_line(model)]
    pairs = [
        (line[earlier], line[later])
        for earlier, later in itertools.combinations(range(len(line)), 2)
        if earlier < 2 or later == earlier + 1
    ]
    parents = [
        (parent, merged)
        for merged in line
        if merged.kind == "merged"
        for parent in models
        if parent.iteration == merged.iteration and parent.kind != "merged"
    ]
    return [*pairs, *parents]


def _compare(earlier: ModelResults, later: ModelResults, config: Bootstrap, seed: int) -> Iterable[Difference]:
    answers = _paired(earlier.predictions, later.predictions)
    grades = _paired(earlier.judged.verdicts, later.judged.verdicts, of=_is_scored)
    for pair, figures in ((answers, _score_figures(answers)), (grades, _cons_figures(grades))):
        found = grouped_estimates(
            figures,
            groups=np.array([row["group"] for row in pair.earlier], dtype=np.str_),
            samples=config.bootstrap_samples,
            confidence=config.confidence,
            seed=seed,
        )
        for metric, estimate in found.items():
            yield Difference(earlier.name, later.name, metric, *estimate, change(estimate))


def _is_scored(row: dict[str, Any]) -> bool:
    return bool(row["status"] == "scored")


def _paired(earlier: pa.Table, later: pa.Table, of: Callable[[dict[str, Any]], bool] = lambda _: True) -> _Pair:
    tables = [
        {row["image"]: row for row in on_split(table, "test").to_pylist() if of(row)} for table in (earlier, later)
    ]
    images = [image for image in tables[0] if image in tables[1]]
    return _Pair(*([table[image] for image in images] for table in tables))


def _score_figures(pair: _Pair) -> dict[str, Callable[[Array], Array]]:
    true, bins = (_column(pair.earlier, name) for name in ("score", "bin"))
    digits = [
        stated_digits(np.array([row["score_distribution"] for row in rows], dtype=np.float64).reshape(-1, 10))
        for rows in pair
    ]
    figures: dict[str, Callable[[Array], Array]] = {
        "srcc_stated": _difference(srcc, true, *(side.astype(np.float64) for side in digits)),
        "mae_stated": _difference(mae, bins, *(side.astype(np.float64) for side in digits)),
        "parse_rate": partial(mean, _column(pair.later, "parsed") - _column(pair.earlier, "parsed")),
    }
    for reading in ("unfitted", "fitted", "monotone"):
        before, after = (_column(rows, f"predicted_{reading}") for rows in pair)
        if np.isfinite(before).all() and np.isfinite(after).all():
            figures[f"srcc_{reading}"] = _difference(srcc, true, before, after)
    return figures


def _cons_figures(pair: _Pair) -> dict[str, Callable[[Array], Array]]:
    before, after = (_column(rows, "consistency") for rows in pair)
    figures: dict[str, Callable[[Array], Array]] = {"cons": partial(mean, after - before)}
    if pair.earlier and all(row["recovered_score"] is not None for rows in pair for row in rows):
        figures["cons_corrected"] = lambda weights: _corrected(pair.later, weights) - _corrected(pair.earlier, weights)
    return figures


def _corrected(rows: list[dict[str, Any]], weights: Array) -> Array:
    chance = chance_level(grade, _column(rows, "stated_score"), _column(rows, "recovered_score"), weights)
    return chance_corrected(mean(_column(rows, "consistency"), weights), chance)


def _difference(figure: Callable[..., Array], true: Array, before: Array, after: Array) -> Callable[[Array], Array]:
    return lambda weights: figure(true, after, weights) - figure(true, before, weights)


def _column(rows: list[dict[str, Any]], name: str) -> Array:
    """Values as floats; a null is NaN."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def compare_models(earlier: ModelResults, later: ModelResults, config: Bootstrap, seed: int) -> list[Difference]:
    """Every difference of two models on test: SRCC by each reading, MAE, parse rate and Cons."""
    return list(_compare(earlier, later, config, seed))
