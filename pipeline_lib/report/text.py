"""The results of a run as a table for the terminal."""

from pipeline_lib.report.contents import RunResults
from pipeline_lib.report.judge_error import judge_error
from pipeline_lib.report.numerals import (
    CONS,
    PARSE_RATE,
    PLCC,
    RMSE,
    SRCC,
    SRCC_UNFITTED,
    decimal,
    estimate_text,
    percent,
)
from pipeline_lib.report.verdict import collapses

_COLUMNS = (PLCC, SRCC, RMSE, SRCC_UNFITTED, CONS, PARSE_RATE)
_HEADINGS = ("PLCC", "SRCC", "RMSE", "SRCC unfitted", "Cons", "Parse rate")


def results_table(results: RunResults) -> str:
    """A row a model with its figures on test, `value [low high]`; below it what the figures are and who judged.

    A collapsed model (parse rate under `evaluation.min_parse_rate`) carries an asterisk and a sentence of its own.
    """
    evaluation = results.recipe.evaluation
    lines = [["", *_HEADINGS]]
    for model in results.models:
        mark = " *" if model.is_collapsed(evaluation.min_parse_rate) else ""
        lines.append([model.name + mark, *(estimate_text(column, model.metric(column.metric)) for column in _COLUMNS)])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    table.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    images = results.models[0].metric("parse_rate").rows
    error = judge_error(results.judge_holdout)
    notes = [
        f"Test split, {images} images. PLCC, SRCC and RMSE use reference values fitted on validation, as in the paper.",
        f"[low high]: {percent(evaluation.confidence)} percentile bootstrap over images, {evaluation.bootstrap_samples}"
        " resamples.",
        "Cons (0..4) is spoken by the local round-trip judge, not by the paper's GPT-4o: never compare it with the"
        " paper's Cons.",
        f"The judge's own error on {error.explanations} held-out explanations: MAE {decimal(error.mae, 2)} points of"
        f" 0..9, correlation {decimal(error.correlation, 2)}.",
        *(f"* {sentence}" for sentence in collapses(results)),
    ]
    return "\n".join([*table, "", *notes]) + "\n"
