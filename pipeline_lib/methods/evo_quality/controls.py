"""A run beside its controls, which learn shuffled or flipped votes: a gain counts only beyond shuffled votes."""

from typing import Any

import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.figures import READINGS, srcc_difference
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import UNDEFINED, Estimate
from pipeline_lib.report.formatting import Column, decimal, estimate_text
from pipeline_lib.tables.table import Table, required

CONTROLS = Table(
    "controls",
    1,
    pa.schema(
        [
            required("labels", pa.string()),  # own, shuffled or flipped
            required("round", pa.int32()),
            required("reading", pa.string()),
            required("srcc", pa.float64()),
            required("spread", pa.float64()),  # of the ratings over images, points of 1..5
            *(
                required(f"{what}_{part}", pa.float64())
                for what in ("gain", "beyond")
                for part in ("value", "low", "high")
            ),
        ]
    ),
)
"""SRCC on the main data set; `gain` less the base, `beyond` of the run's model less the control's of that round."""

Ratings = dict[tuple[str, int], tuple[pa.Table, dict[str, float]]]
"""By labels and round (0: the base): `RATINGS` of the main data set, and its figures by name."""

_SRCC = Column("srcc", "SRCC", 3, 2)


def control_figures(models: Ratings, config: Bootstrap, seed: int) -> pa.Table:
    """`CONTROLS` of a run and its controls; raises `DataError` when they rated different images."""
    base = models["own", 0][0]
    rows = []
    for (labels, number), (ratings, figures) in models.items():
        if ratings["image"].to_pylist() != base["image"].to_pylist():
            raise DataError("a run and its controls must be evaluated on the same images; make all from one recipe")
        for reading in READINGS:
            gain = srcc_difference(base, ratings, reading, config, seed) if number else UNDEFINED
            own = models.get(("own", number))
            beyond = UNDEFINED
            if labels != "own" and own is not None:
                beyond = srcc_difference(ratings, own[0], reading, config, seed)
            rows.append(
                {"labels": labels, "round": number, "reading": reading, "srcc": figures[f"srcc_{reading}"]}
                | {"spread": figures[f"spread_{reading}"]}
                | {f"gain_{part}": getattr(gain, part) for part in ("value", "low", "high")}
                | {f"beyond_{part}": getattr(beyond, part) for part in ("value", "low", "high")}
            )
    return pa.Table.from_pylist(rows, schema=CONTROLS.schema)


def control_grid(controls: pa.Table) -> tuple[list[str], list[list[str]]]:
    """A row for each model: SRCC and spread by reading, gain over the base, and what the run has beyond a control."""
    rows = {(row["labels"], row["round"], row["reading"]): row for row in controls.to_pylist()}
    headings = [
        "Votes",
        *(f"{what} {reading}" for reading in READINGS for what in ("SRCC", "Spread", "Gain", "Run beyond it")),
    ]
    table = []
    for labels, number in dict.fromkeys((labels, number) for labels, number, _ in rows):
        cells = []
        for reading in READINGS:
            row = rows[labels, number, reading]
            cells += [decimal(row["srcc"], 3), decimal(row["spread"], 2), _text(row, "gain"), _text(row, "beyond")]
        name = f"{labels}, round {number}" if number else "base"
        table.append([name, *cells])
    return headings, table


def gain_counts(controls: pa.Table, reading: str) -> bool | None:
    """Whether the last round's gain is above 0 and beyond shuffled votes; None when they were not compared."""
    rows = controls.to_pylist()
    last = max(row["round"] for row in rows if row["labels"] == "own")
    own, shuffled = _find(rows, "own", last, reading), _find(rows, "shuffled", last, reading)
    if own is None or shuffled is None:
        return None
    # A model that rates all images alike ranks nothing, so it has no SRCC, and there is nothing to be beyond.
    beyond = shuffled["spread"] == 0 or change(_estimate(shuffled, "beyond")) == "raised"
    return change(_estimate(own, "gain")) == "raised" and beyond


def gain_sentence(controls: pa.Table) -> str:
    """Whether the last round's gain counts, by both readings, and what the flipped votes did."""
    rows = controls.to_pylist()
    last = max(row["round"] for row in rows if row["labels"] == "own")
    sentences = []
    for reading in READINGS:
        own = _find(rows, "own", last, reading)
        shuffled = _find(rows, "shuffled", last, reading)
        if own is None or shuffled is None:
            continue
        word = "counts" if gain_counts(controls, reading) else "does not count"
        given = "leave one rating for all images" if shuffled["spread"] == 0 else f"give {_text(shuffled, 'gain')}"
        sentences.append(
            f"The gain of the {reading} rating {word}: {_text(own, 'gain')} over the base; shuffled votes {given}."
        )
    flipped = [_find(rows, "flipped", 1, reading) for reading in READINGS]
    if all(flipped):
        figures = " and ".join(_text(row, "gain") for row in flipped if row)
        sentences.append(f"Flipped votes change it by {figures} in round 1.")
    return " ".join(sentences)


def _find(rows: list[dict[str, Any]], labels: str, number: int, reading: str) -> dict[str, Any] | None:
    wanted = (labels, number, reading)
    return next((row for row in rows if (row["labels"], row["round"], row["reading"]) == wanted), None)


def _estimate(row: dict[str, Any], what: str) -> Estimate:
    return Estimate(row[f"{what}_value"], row[f"{what}_low"], row[f"{what}_high"], 0)


def _text(row: dict[str, Any], what: str) -> str:
    return estimate_text(_SRCC, _estimate(row, what))
