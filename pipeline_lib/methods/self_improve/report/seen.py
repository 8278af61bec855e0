"""What a judge that sees the image says of the explanations, and whether it tells them from its controls."""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults, estimate
from pipeline_lib.methods.self_improve.vlm_verdicts import is_fooled
from pipeline_lib.metrics.agreement import Agreement, judge_agreement
from pipeline_lib.report.formatting import CONS, estimate_text

_COLUMNS = {
    "vlm_fits_score": "Fits the score",
    "vlm_true_of_image": "True of the image",
    "vlm_useful": "Useful",
    "above_shuffled": "Above shuffled",
    "round_trip_above_shuffled": "the same, round-trip",
    "above_fixed": "Above fixed texts",
    "round_trip_above_fixed": "the same, round-trip",
}


class SeenSection(NamedTuple):
    """The section of the report: headings, rows, and sentences on the controls."""

    headings: list[str]
    rows: list[dict[str, Any]]
    sentences: list[str]


def seen_section(results: RunResults) -> SeenSection | None:
    """The section; None without such a judge."""
    judged = [model for model in results.models if model.seen is not None]
    if not judged:
        return None
    rows = [{"name": model.name, "cells": _cells(results, model)} for model in judged]
    headings = [*_COLUMNS.values(), "Spearman with the round-trip judge"]
    return SeenSection(headings, rows, [_sentence(model) for model in judged])


def _cells(results: RunResults, model: ModelResults) -> list[str]:
    assert model.seen is not None
    cells = []
    for name in _COLUMNS:
        found = estimate(model.seen.metrics, name, "test")
        cells.append("–" if found is None else estimate_text(CONS, found))
    cells.append(estimate_text(CONS, _agreement(results, model).spearman))
    return cells


def _agreement(results: RunResults, model: ModelResults) -> Agreement:
    """Of the grades for fitting the score with those of the round-trip judge, on the explanations that both rated."""
    assert model.seen is not None
    fits = model.seen.verdicts.filter(pc.equal(model.seen.verdicts["aspect"], "fits_score"))
    grades = dict(zip(fits["image"].to_pylist(), fits["grade"].to_pylist(), strict=True))
    round_trip = (model.second or model.judged).verdicts
    images = round_trip["image"].to_pylist()
    same = pa.table(
        {
            "image": images,
            "split": round_trip["split"],
            "consistency": pa.array([grades.get(image) for image in images], pa.int8()),
        }
    )
    evaluation = results.recipe.evaluation
    return judge_agreement(
        same,
        round_trip,
        split="test",
        samples=evaluation.bootstrap_samples,
        confidence=evaluation.confidence,
        seed=results.recipe.seed,
    )


def _sentence(model: ModelResults) -> str:
    assert model.seen is not None
    fooled = is_fooled(model.seen.metrics)
    if fooled:
        return f"{model.name}: the judge is fooled. It does not tell the explanations from {' or from '.join(fooled)}."
    return f"{model.name}: the judge tells the explanations from both controls."
