"""CSV, Excel, JSON lines and Parquet as data frames, with names as they are written.

Tables come as people have them: with other separators, decimal commas, other encodings, blank rows, cells behind the
last column. A note says each guess that was needed to read one.
"""

import csv
import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.errors import DataError

log = logging.getLogger("whyscore.data")

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".pq", ".xlsx")

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+(,\d+)?([eE][-+]?\d+)?\s*")
_THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2},\d{3}\s*")
_OTHER_FILES = (  # by their first bytes
    (b"\xd0\xcf\x11\xe0", "an old or encrypted Excel file; save it as .xlsx or CSV"),
    (b"\x1f\x8b", "compressed; unpack it first"),
    (b"%PDF", "a PDF file; export the table as CSV"),
    (b"<html", "a web page; export the table as CSV"),
    (b"<!doctype html", "a web page; export the table as CSV"),
    (b"{\\rtf", "a text document (RTF); export the table as CSV"),
)
_SHOWN = 3


class Frame(NamedTuple):
    """A table as it was read: its rows, the line in the file that each begins in if it has lines, and the guesses."""

    rows: pd.DataFrame
    lines: list[int] | None
    notes: list[str]


def read_frame(path: str, names: list[str]) -> pd.DataFrame:
    """The rows of `read_table`; guesses are logged."""
    table = read_table(path, names)
    for note in table.notes:
        log.info("%s: %s", path, note)
    return table.rows


def read_table(path: str, names: list[str]) -> Frame:
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
        for start, what in _OTHER_FILES:
            if content[:100].lstrip().lower().startswith(start.lower()):
                raise DataError(f"it is {what}")
        if not content:
            raise DataError("it is empty")
        if content.startswith(b"PK\x03\x04"):
            return _workbook(content, names, [] if ending == ".xlsx" else ["it is an Excel workbook despite its name"])
        if ending in {".parquet", ".pq"}:
            return Frame(pd.read_parquet(io.BytesIO(content)), None, [])
        if ending == ".xlsx":
            raise DataError("it is no Excel workbook; save it as .xlsx again, or as CSV")
        text, guess = files.decode_text(content)
        notes = [guess] if guess else []
        if ending == ".jsonl":
            return _json_lines(text, notes)
        return _csv(text, names, "\t" if ending == ".tsv" else ",", notes)
    except (DataError, ValueError, OSError, csv.Error, pd.errors.ParserError) as error:
        raise DataError(f"image table {path} cannot be read: {error}") from error


def _json_lines(text: str, notes: list[str]) -> Frame:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), start=1):  # a string may hold what else ends a line, as U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"line {number} is no JSON object ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"line {number} is no JSON object, found {line.strip()[:40]}")
        rows.append(row)
        lines.append(number)
    return Frame(pd.DataFrame(rows), lines, notes)


def _csv(text: str, names: list[str], usual: str, notes: list[str]) -> Frame:
    first = 0
    if said := _SEPARATOR_LINE.match(text):  # Excel writes it, and hides it
        text, first = text[said.end() :], 1
    separator = said[1] if said else _separator(text, names, usual)
    if separator != usual:
        notes.append(f"its columns are separated by {_SEPARATORS.get(separator, repr(separator))}")
    table = list(_rows(text, separator, first))
    lines, width, changed = _straighten(table, notes)
    between = separator
    if changed:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            pass  # raises for a quote that is never closed, which would be gone from what is written now
        written = io.StringIO()
        csv.writer(written).writerows(cells[:width] for _, cells in table)
        text, between = written.getvalue(), ","
    frame = pd.read_csv(io.StringIO(text), sep=between, low_memory=False)
    written_names = [name for name in frame.columns if str(name).strip() in names]
    texts = pd.read_csv(io.StringIO(text), sep=between, usecols=written_names, dtype=str, keep_default_na=False)
    frame = _with_plain_headings(frame.assign(**{name: texts[name] for name in written_names}))
    if separator != ",":
        frame = _without_decimal_commas(frame, names, notes, certain=separator == ";")
    return Frame(frame, lines if len(lines) == len(frame) else None, notes)


def _separator(text: str, names: list[str], usual: str) -> str:
    """What separates the cells of the header best: the names that are looked for are among them, or there are most."""
    header = next((line for line in text.splitlines() if line.strip()), "")

    def found(separator: str) -> tuple[int, int, bool]:
        cells = [cell.strip() for cell in next(csv.reader([header], delimiter=separator), [])]
        return len({*names} & {*cells}) if len(cells) > 1 else 0, len(cells), separator == usual

    return max(_SEPARATORS, key=found)


def _rows(text: str, separator: str, first: int) -> Iterator[tuple[int, list[Any]]]:
    """The cells of each row, and the line that the row begins in; empty lines are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    begins = 1
    for cells in reader:
        if cells:
            yield begins + first, cells
        begins = reader.line_num + 1


def _workbook(content: bytes, names: list[str], notes: list[str]) -> Frame:
    import openpyxl

    try:
        workbook = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheets = workbook.worksheets
        sheets[0].reset_dimensions()  # some programs write wrong ones
        table = [(number, list(cells)) for number, cells in enumerate(sheets[0].iter_rows(values_only=True), start=1)]
    except Exception as error:  # openpyxl raises anything for a file that is not a workbook
        raise DataError(f"it is no Excel workbook ({error})") from error
    table = table[next((at for at, (_, cells) in enumerate(table) if not _is_blank(cells)), len(table)) :]
    if len(sheets) > 1:
        notes.append(f"the sheet {sheets[0].title!r} was read, the first of {len(sheets)}")
    lines, width, _ = _straighten(table, notes)
    heading = [f"Unnamed: {at}" if _is_blank([cell]) else str(cell) for at, cell in enumerate(table[0][1][:width])]
    rows = [[*cells[:width], *[None] * (width - len(cells))] for _, cells in table[1:]]
    frame = _with_plain_headings(pd.DataFrame(rows, columns=heading).infer_objects())
    for name in names:
        if name in frame:
            frame[name] = [_text(cell) for cell in frame[name]]
    return Frame(_without_decimal_commas(frame, names, notes, certain=False), lines, notes)


def _straighten(table: list[tuple[int, list[Any]]], notes: list[str]) -> tuple[list[int], int, bool]:
    """Leave out blank rows, and find the width without blank columns at the end.

    Returns the lines of the rows below the header, the width, and whether anything of the table is left out. Raises
    `DataError` for a table without a header, and for rows with cells behind the last column.
    """
    blank = [line for line, cells in table if _is_blank(cells)]
    if blank:
        table[:] = [row for row in table if not _is_blank(row[1])]
        notes.append(f"{len(blank)} blank row(s) are left out: {_some([f'line {line}' for line in blank])}")
    if not table:
        raise DataError("it is empty")
    header, cut = table[0][1], bool(blank)
    width = len(header)
    while width and _is_blank(header[width - 1 : width]) and all(_is_blank(row[width - 1 :]) for _, row in table):
        width, cut = width - 1, True
    if wide := [line for line, cells in table if not _is_blank(cells[width:])]:
        raise DataError(
            f"{len(wide)} row(s) have more cells than the header's {width}: {_some([f'line {line}' for line in wide])};"
            " a text that holds the separator must stand in double quotes"
        )
    return [line for line, _ in table[1:]], width, cut or any(len(cells) > width for _, cells in table)


def _is_blank(cells: Sequence[Any]) -> bool:
    return all(cell is None or not str(cell).strip() for cell in cells)


def _text(cell: Any) -> str:
    if cell is None or cell != cell:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _with_plain_headings(frame: pd.DataFrame) -> pd.DataFrame:
    plain = [str(name).strip() for name in frame.columns]
    return frame.set_axis(plain, axis=1) if len(set(plain)) == len(plain) else frame


def _without_decimal_commas(frame: pd.DataFrame, names: list[str], notes: list[str], *, certain: bool) -> pd.DataFrame:
    changed = {}
    for name in frame.columns:
        if name not in names and frame[name].dtype.kind not in "biufcMm":
            numbers = with_decimal_points(frame[name], certain=certain)
            if numbers is not None:
                changed[name] = numbers
    if changed:
        notes.append(f"decimal commas are read in column(s) {', '.join(map(str, changed))}")
    return frame.assign(**changed)


def with_decimal_points(column: pd.Series, *, certain: bool = False) -> pd.Series | None:
    """A column of numbers with decimal commas as floats; None when it is anything else.

    Unless it is `certain` that commas are decimal, 1,234 alone is not read: it may be a thousand.
    """
    values = column.dropna()
    if not all(isinstance(value, (str, int, float)) and _DECIMAL_COMMA.fullmatch(str(value)) for value in values):
        return None
    commas = [value for value in values if isinstance(value, str) and "," in value]
    if not commas or not (certain or any(not _THOUSANDS.fullmatch(value) for value in commas)):
        return None
    return column.map(lambda value: float(str(value).replace(",", ".")), na_action="ignore").astype(float)


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def require_columns(path: str, frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The frame itself, or a `DataError` that names the columns it lacks."""
    if absent := [name for name in names if name not in frame.columns]:
        raise DataError(f"{path}: no column {', '.join(absent)}; its columns are {', '.join(map(str, frame.columns))}")
    return frame
