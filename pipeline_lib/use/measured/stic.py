"""What a model of stic was measured on: questions with reference answers, and descriptions that can be checked."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.methods.stic.figures import Counts
from pipeline_lib.metrics.figures import mean
from pipeline_lib.store.key import canonical_json
from pipeline_lib.store.runs import RunFolder, RunModel
from pipeline_lib.use.measured import Figure, Measured, numbered, table_of

Array = NDArray[np.float64]


def measured(run: RunFolder, model: RunModel) -> list[Measured]:
    """The questions first; see `pipeline_lib.use.measured`."""
    found = []
    answers = table_of(run, model.role("predictions"), "stic_predictions")
    checked = table_of(run, model.role("predictions"), "checked_descriptions")
    if answers is not None:
        rows = answers.to_pylist()
        found.append(
            Measured(
                "questions",
                "questions",
                numbered([canonical_json([_images(row), row["question"]]) for row in rows]),
                tuple(tuple(row["answers"]) for row in rows),
                np.array([row["group"] for row in rows], dtype=np.str_),
                tuple(_accuracy(way, _column(rows, f"{way}_right")) for way in ("direct", "described")),
            )
        )
    if checked is not None and len((known := Counts.of(checked)).rows):
        digests = checked["image_sha256"].to_pylist()
        found.append(
            Measured(
                "descriptions",
                "questions",
                numbered([digests[at] for at in known.rows]),
                tuple(None for _ in known.rows),
                np.array(known.groups, dtype=np.str_),
                (
                    Figure(
                        "wrong_statements", "Wrong statements", _ratio, (known.wrong, known.all), lower_is_better=True
                    ),
                ),
            )
        )
    return found


def _accuracy(way: str, right: Array) -> Figure:
    whole = bool(np.isin(right, (0, 1)).all())  # else a share of the references is right
    return Figure(f"accuracy_{way}", f"Accuracy {way}", mean, (right,), rate=whole)


def _ratio(part: Array, whole: Array, weights: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ part) / (weights @ whole))


def _images(row: dict[str, Any]) -> list[str]:
    return [image["image_sha256"] for image in row["images"]]


def _column(rows: list[dict[str, Any]], name: str) -> Array:
    return np.array([row[name] for row in rows], dtype=np.float64)
