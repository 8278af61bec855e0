"""Predictions as a Parquet or CSV file of the user's, local or on S3."""

import io
import logging
import os
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline_lib.data import files
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.recipe import SCORES

log = logging.getLogger("whyscore.predict")

_FORMULA = r"^[=+\-@\t\r]"


def writer(out: str) -> Callable[[pa.Table], None]:
    """A function that writes predictions to a path: as Parquet, or as CSV with a column for each of the ten scores.

    Spreadsheets run a text that begins with =, +, -, @ as a formula. So in CSV such a text begins with an apostrophe;
    Parquet has it as it is. Raises `DataError` for another ending or a place that cannot be written, before anything is
    computed.
    """
    if files.ending(out) not in (".parquet", ".csv"):
        raise DataError(f"{out}: expected a path that ends in .parquet or .csv")
    if not files.is_remote(out):
        _check_writable(out)

    def write(predictions: pa.Table) -> None:
        buffer = io.BytesIO()
        if files.ending(out) == ".parquet":
            pq.write_table(predictions, buffer, compression="zstd")
        else:
            pa_csv.write_csv(_without_formulas(_flat(predictions), out), buffer)
        if not files.is_remote(out) and os.path.exists(out):
            log.info("%s is replaced", out)
        files.write_file(out, buffer.getvalue())

    return write


def _check_writable(out: str) -> None:
    folder = os.path.dirname(os.path.abspath(out))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if os.path.isdir(out):
        raise DataError(f"{out} is a folder; give the path of a file")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"{out} cannot be written: {folder} is no folder that this user may write to")


def _without_formulas(table: pa.Table, out: str) -> pa.Table:
    changed = 0
    for at, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            formula = pc.fill_null(pc.match_substring_regex(table.column(at), _FORMULA), False)
            changed += pc.sum(formula).as_py() or 0
            quoted = pc.binary_join_element_wise("'", table.column(at), "")
            table = table.set_column(at, field, pc.if_else(formula, quoted, table.column(at)))
    if changed:
        log.warning("%s: %d text(s) that a spreadsheet would run as a formula begin with an apostrophe", out, changed)
    return table


def _flat(predictions: pa.Table) -> pa.Table:
    if "score_distribution" not in predictions.column_names:  # a method's own ratings
        return predictions
    distributions = predictions["score_distribution"].to_pylist()
    at = predictions.column_names.index("score_distribution")
    for score in reversed(SCORES):
        column = pa.array([None if p is None else p[score] for p in distributions], pa.float64())
        predictions = predictions.add_column(at, f"p_{score}", column)
    return predictions.drop_columns(["score_distribution"])
