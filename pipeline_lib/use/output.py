"""Predictions as a Parquet or CSV file of the user's, local or on S3."""

import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline_lib.data import files
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.recipe import SCORES


def writer(out: str) -> Callable[[pa.Table], None]:
    """A function that writes predictions to a path: as Parquet, or as CSV with a column for each of the ten scores.

    Raises `DataError` for another ending, before anything is computed.
    """
    if files.ending(out) not in (".parquet", ".csv"):
        raise DataError(f"{out}: expected a path that ends in .parquet or .csv")

    def write(predictions: pa.Table) -> None:
        buffer = io.BytesIO()
        if files.ending(out) == ".parquet":
            pq.write_table(predictions, buffer, compression="zstd")
        else:
            pa_csv.write_csv(_flat(predictions), buffer)
        files.write_file(out, buffer.getvalue())

    return write


def _flat(predictions: pa.Table) -> pa.Table:
    distributions = predictions["score_distribution"].to_pylist()
    at = predictions.column_names.index("score_distribution")
    for score in reversed(SCORES):
        column = pa.array([None if p is None else p[score] for p in distributions], pa.float64())
        predictions = predictions.add_column(at, f"p_{score}", column)
    return predictions.drop_columns(["score_distribution"])
