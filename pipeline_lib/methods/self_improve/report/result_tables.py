"""The tables of results: every model in the main figures, paired changes, all readings, and Cons against chance."""

from typing import Any

from pipeline_lib.methods.self_improve.report.contents import ModelResults, OtherResults, RunResults, estimate
from pipeline_lib.methods.self_improve.report.differences import other_difference
from pipeline_lib.methods.self_improve.report.judges import judged_columns
from pipeline_lib.methods.self_improve.report.lineage import compared, is_on_main_line
from pipeline_lib.methods.self_improve.report.verdict import cons_column, used_srcc
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report import formatting
from pipeline_lib.report.formatting import (
    CONS,
    CONS_CHANCE,
    CONS_CORRECTED,
    DISTINCT_TEXTS,
    MAE_STATED,
    MEAN_WORDS,
    ONE_WORD,
    PARSE_RATE,
    SPREAD,
    SRCC_STATED,
    TEN_TEXTS,
    WITHIN_ONE,
    Column,
    score_column,
)

_READING_FIGURES = (
    ("SRCC", "srcc", 3),
    ("KRCC", "krcc", 3),
    ("PLCC", "plcc", 3),
    ("PLCC after a logistic of validation", "plcc_logistic", 3),
    ("PLCC after a logistic of the same images", "plcc_logistic_same", 3),
    ("RMSE", "rmse", 3),
    ("MAE", "mae", 3),
)


def column_groups(results: RunResults) -> list[tuple[str, list[Column]]]:
    """The columns of Table 1 with the heading of their group; headings within a group do not repeat it."""
    used = [score_column(figure, results.reading) for figure in ("srcc", "plcc", "rmse")]
    paper = [score_column(figure, "fitted") for figure in ("plcc", "srcc", "rmse")]
    cons = [CONS_CORRECTED] if cons_column(results) == CONS_CORRECTED else []
    groups = [
        ("Stated digit", [SRCC_STATED, MAE_STATED, WITHIN_ONE]),
        (results.reading.capitalize(), used),
        ("Fitted, as in the paper", paper),
        ("Explanations", [*judged_columns(results), *cons]),
        ("", [PARSE_RATE]),
    ]
    return [(title, [_without(title, column) for column in columns]) for title, columns in groups]


def _without(title: str, column: Column) -> Column:
    words = [word for word in column.heading.split() if word not in title.lower().replace(",", "").split()]
    return column._replace(heading=" ".join(words).replace("Cons corrected", "Corrected"))


def change_columns(results: RunResults) -> list[tuple[str, Column]]:
    """The figures whose paired differences are shown."""
    columns = [SRCC_STATED, used_srcc(results), formatting.SRCC_FITTED, cons_column(results), PARSE_RATE]
    return [(column.heading, column) for column in columns]


def change_rows(results: RunResults) -> list[dict[str, Any]]:
    """A row for each pair of models that was compared: difference, interval and word for each figure."""
    by_name = {model.name: model for model in results.models}
    pairs = dict.fromkeys((row["earlier"], row["later"]) for row in results.differences.to_pylist())
    rows = []
    for earlier, later in (pair for pair in pairs if by_name.keys() >= set(pair)):
        cells = []
        for _, column in change_columns(results):
            found = results.difference(by_name[earlier], by_name[later], column.metric)
            if found is None:
                cells.append({"value": formatting.UNDEFINED, "bounds": "", "word": ""})
                continue
            cell = shown(column, Estimate(found.value, found.low, found.high, found.rows))
            word = "no difference" if found.change == "no difference shown" else found.change
            cells.append(cell | {"value": ("+" if found.value > 0 else "") + cell["value"], "word": word})
        main = all(is_on_main_line(by_name[name]) for name in (earlier, later))
        rows.append({"earlier": earlier, "later": later, "main": main, "cells": cells})
    return rows


def figure_rows(results: RunResults) -> list[dict[str, Any]]:
    """Every figure of every reading for zero-shot, iteration 1 and the final model, on test."""
    readings = ["stated", "unfitted", "monotone", "fitted"]
    rows = []
    for title, figure, decimals in _READING_FIGURES:
        for reading in readings:
            column = score_column(figure, reading, decimals)
            if any(model.has(column.metric) for model in compared(results)):
                rows.append(_figure_row(results, f"{title}, {reading}", column))
    own = (
        ("Exact bin, stated", score_column("exact", "stated")),
        ("Within one bin, stated", WITHIN_ONE),
        ("Pairs of images with equal digits, stated", score_column("ties", "stated")),
        ("Spread of the expected digit, bins", SPREAD),
        ("CRPS", Column("crps", "CRPS", 3, 2)),
        ("Distance from the votes (EMD)", Column("emd", "EMD", 3, 2)),
    )
    measured = [(title, column) for title, column in own if any(model.has(column.metric) for model in results.models)]
    return [*rows, *(_figure_row(results, title, column) for title, column in measured)]


def cons_rows(results: RunResults) -> list[dict[str, Any]]:
    """Cons of each model by the round-trip judge, beside what says how much of it is the text's."""
    columns = (CONS, CONS_CHANCE, CONS_CORRECTED, TEN_TEXTS, ONE_WORD, DISTINCT_TEXTS, MEAN_WORDS)
    rows = []
    for model in results.models:
        by_round_trip = model._replace(judged=model.second or model.judged)
        cells = [shown_cell(column, by_round_trip) for column in columns]
        rows.append({"name": model.name, "main": is_on_main_line(model), "cells": cells})
    return rows


def other_columns(results: RunResults) -> tuple[Column, ...]:
    """The figures on other data sets."""
    used = [score_column(figure, results.reading) for figure in ("srcc", "krcc", "plcc")]
    return SRCC_STATED, *used, SPREAD, PARSE_RATE


def other_rows(results: RunResults) -> list[dict[str, Any]]:
    """A row for each model on each other data set,."""
    rows = []
    for other in results.others:
        nan = Estimate(float("nan"), float("nan"), float("nan"), 0)
        cells = [
            shown(column, estimate(other.metrics, column.metric, "test") or nan) for column in other_columns(results)
        ]
        rows.append({"data": other.data, "name": other.name, "images": other.predictions.num_rows, "cells": cells})
    return rows


def other_sentences(results: RunResults) -> list[str]:
    """Whether the final model beats zero-shot on each other data set, by the paired difference of SRCC."""
    sentences = []
    evaluation = results.recipe.evaluation
    by_data: dict[str, list[OtherResults]] = {}
    for other in results.others:
        by_data.setdefault(other.data, []).append(other)
    for data, (before, after) in by_data.items():
        found = other_difference(before, after, evaluation, results.recipe.seed)
        verb = {"raised": "raised", "lowered": "lowered"}.get(change(found), "shows no difference of")
        column = used_srcc(results)._replace(bound_decimals=3)
        sentences.append(
            f"On {data}, {after.name} {verb} {results.reading} SRCC compared with {before.name} (difference"
            f" {formatting.estimate_text(column, found)})."
        )
    return sentences


def shown_cell(column: Column, model: ModelResults) -> dict[str, str]:
    """Value and interval of a model's figure on test."""
    return shown(column, model.metric_or_nan(column.metric))


def shown(column: Column, found: Estimate) -> dict[str, str]:
    """Value and interval as a table prints them."""
    return {"value": formatting.value_text(column, found), "bounds": formatting.bounds_text(column, found)}


def _figure_row(results: RunResults, title: str, column: Column) -> dict[str, Any]:
    return {"title": title, "cells": [shown_cell(column, model) for model in compared(results)]}
