"""CSV, JSON lines and Parquet as data frames, with names as they are written."""

import io
import json

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.errors import DataError

ENDINGS = (".csv", ".jsonl", ".parquet", ".pq")


def read_frame(path: str, names: list[str]) -> pd.DataFrame:
    """Read a table; the columns `names` stay text: 007 is not a number, and NA may be a file name.

    Raises `DataError` when the file is not there, of another kind, or damaged.
    """
    ending = files.ending(path)
    if ending not in ENDINGS:
        raise DataError(f"image table {path}: expected a file ending in {', '.join(ENDINGS)}; save it as one of these")
    try:
        content = files.read_file(path)
    except DataError as error:
        raise DataError(f"image table {error}; set data.table to a CSV or Parquet file") from error
    try:
        if ending == ".csv":
            return _csv(content, names)
        if ending == ".jsonl":
            return pd.DataFrame([json.loads(line) for line in content.decode("utf-8-sig").splitlines() if line.strip()])
        return pd.read_parquet(io.BytesIO(content))
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"image table {path} cannot be read: {error}") from error


def _csv(content: bytes, names: list[str]) -> pd.DataFrame:
    frame = pd.read_csv(io.BytesIO(content), low_memory=False, encoding="utf-8-sig")
    written = [name for name in names if name in frame.columns]
    texts = pd.read_csv(io.BytesIO(content), usecols=written, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return frame.assign(**{name: texts[name] for name in written})


def require_columns(path: str, frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The frame itself, or a `DataError` that names the columns it lacks."""
    if absent := [name for name in names if name not in frame.columns]:
        raise DataError(f"{path}: no column {', '.join(absent)}; its columns are {', '.join(map(str, frame.columns))}")
    return frame
