"""What a model of self_improve was measured on: its test images, the explanations of them, and other labelled data."""

import os
import re
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_lib.metrics.figures import mae, mean, srcc
from pipeline_lib.metrics.readings import stated_digits
from pipeline_lib.store.runs import RunFolder, RunModel
from pipeline_lib.use.measured import Figure, Measured, numbered, table_of

_ALSO = re.compile(r"also/([^/]+)/iteration-(\d+)")


def measured(run: RunFolder, model: RunModel) -> list[Measured]:
    """The test split first, by the reading that `predict` uses; see `pipeline_lib.use.measured`."""
    found = []
    predictions = table_of(run, model.role("predictions"), "predictions")
    if predictions is not None:
        rows = [row for row in predictions.to_pylist() if row["split"] == "test"]
        found.append(_scores(run, rows))
    for role in ("openai_verdicts", "verdicts"):
        verdicts = table_of(run, model.role(role), "verdicts")
        if verdicts is not None:
            found.append(_explanations(run, verdicts))
    for role in run.pointers("also"):
        also = _ALSO.fullmatch(role)
        # Of an iteration one model is measured on other data: that which the next iteration starts from.
        if also and int(also[2]) == model.iteration and (model.kind in ("zero-shot", "merged") or also[2] == "01"):
            table = table_of(run, role, "other_predictions")
            if table is not None:
                found.append(_other(also[1], table))
    return found


def _scores(run: RunFolder, rows: list[dict[str, Any]]) -> Measured:
    reading = "monotone" if all(row["predicted_monotone"] is not None for row in rows) else "unfitted"
    true, predicted = (_column(rows, name) for name in ("score", f"predicted_{reading}"))
    distributions = np.array([row["score_distribution"] for row in rows], dtype=np.float64).reshape(-1, 10)
    stated = stated_digits(distributions).astype(np.float64)
    data = run.fields.get("data", {})
    unit = f"column {data.get('score_column')} of {data.get('dataset')} {os.path.basename(str(data.get('table')))}"
    return Measured(
        "images",
        "test",
        numbered([row["image_sha256"] for row in rows]),
        tuple(row["score"] for row in rows),
        np.array([row["group"] for row in rows], dtype=np.str_),
        (
            Figure("srcc", "SRCC", srcc, (true, predicted)),
            Figure("srcc_stated", "SRCC stated", srcc, (true, stated)),
            Figure("mae", "MAE", mae, (true, predicted), unit=unit, lower_is_better=True),
            Figure("parse_rate", "Parse rate", mean, (_column(rows, "parsed"),), rate=True),
        ),
    )


def _explanations(run: RunFolder, verdicts: pa.Table) -> Measured:
    """The explanations that a judge has graded. The round-trip judge is fitted for each run: another one grades."""
    rows = [row for row in verdicts.to_pylist() if row["split"] == "test" and row["status"] == "scored"]
    name, heading, by = "cons", "Cons", "a round-trip judge"
    if rows and rows[0]["judge"] != "round_trip":
        name, heading, by = "cons_judge", f"Cons of {rows[0]['judge']}", f"the judge {rows[0]['judge']}"
    elif fitted := run.find("judge"):
        by = f"the round-trip judge {fitted.key[:8]}"
    return Measured(
        "explanations",
        "test",
        numbered([row["image_sha256"] for row in rows]),
        tuple(None for _ in rows),
        np.array([row["group"] for row in rows], dtype=np.str_),
        (Figure(name, heading, mean, (_column(rows, "consistency"),), 2, measured_with=by),),
    )


def _other(data: str, table: pa.Table) -> Measured:
    rows = table.to_pylist()
    true, predicted = (_column(rows, name) for name in ("score", "predicted"))
    return Measured(
        "images",
        data,
        numbered([row["image_sha256"] for row in rows]),
        tuple(row["score"] for row in rows),
        np.array([row["group"] for row in rows], dtype=np.str_),
        (
            Figure("srcc", "SRCC", srcc, (true, predicted)),
            Figure("parse_rate", "Parse rate", mean, (_column(rows, "parsed"),), rate=True),
        ),
    )


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([row[name] for row in rows], dtype=np.float64)
