"""Predictions as a file of the user's, local or on S3: CSV, Excel, Parquet or a gallery."""

import csv
import io
import logging
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.data import files
from pipeline_lib.errors import DataError
from pipeline_lib.report.text_table import text_table
from pipeline_lib.use.views import View, decimals

log = logging.getLogger("whyscore.predict")

_FORMULA = re.compile(r"[=+\-@\t\r]")
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What no workbook may hold."""
_SHEET_ROWS, _CELL = 1_048_575, 32_767
"""Limits of Excel: rows below the heading, and characters in a cell."""

MOST_IN_GALLERY = 2_000
"""Images of one page; it holds their pixels."""


class Predictions(NamedTuple):
    """The predictions of a model, a row an image, beside what was asked for."""

    rows: pa.Table  # in the method's own schema
    view: View
    model: str  # e.g. ite-2 merged of run demo
    images: pa.Table  # NEW_IMAGES, in the same order
    own: pa.Table  # the user's columns, in the same order; there may be none
    names_image: bool = False  # whether a column of the user's names the image


def writer(out: str, *, overwrite: bool = False) -> Callable[[Predictions], None]:
    """A function that writes predictions to a path, which ends in .csv, .xlsx, .parquet or .html (a gallery).

    The user's own columns come first; ours that have the name of one of them begin with `whyscore_`. CSV and Excel have
    a column for each bin, rounded scores and no line breaks in a cell; a text that a spreadsheet would run as a formula
    begins with an apostrophe in CSV and is text in Excel. Parquet has every value as it is.

    Raises `DataError` before anything is computed: for another ending, a place that cannot be written, and a file that
    exists unless `overwrite`.
    """
    formats = {".csv": _csv, ".xlsx": _workbook, ".parquet": _parquet, ".html": _gallery}
    if files.ending(out) not in formats:
        raise DataError(f"{out}: expected a path that ends in {', '.join(formats)}")
    if files.is_remote(out):
        there = (
            files.ending(out) and files.parent(out) and out.rsplit("/", 1)[-1] in files.list_folder(files.parent(out))
        )
    else:
        _check_writable(out)
        there = os.path.exists(out)
    if there and not overwrite:
        raise DataError(f"{out} exists; give another path, or --overwrite to replace it")

    def write(predictions: Predictions) -> None:
        files.write_file(out, formats[files.ending(out)](predictions, out))

    return write


def check_size(out: str | None, images: int) -> None:
    """Raise `DataError` when a file of this kind cannot hold so many images."""
    most = {".html": MOST_IN_GALLERY, ".xlsx": _SHEET_ROWS}.get(files.ending(out or ""))
    if most is not None and images > most:
        raise DataError(
            f"{out}: such a file holds at most {most:,} images, found {images:,}; give a path that ends in .csv or"
            " .parquet, or fewer images"
        )


def terminal_table(rows: pa.Table, view: View, *, shown: int, width: int) -> str:
    """The first predictions as a table of at most `width` characters, with problems and what its numbers mean."""
    places = decimals(rows, view)
    table, problems = [], []
    for row in rows.slice(0, shown).to_pylist():
        if row["problem"]:
            problems.append(f"{_printable(row['image'])}: not scored: {_printable(row['problem'])}")
        said = "not scored, see below" if row["problem"] else row[view.explanation or view.text] or row[view.text] or ""
        score, stated = row[view.score], row[view.stated]
        table.append(
            [
                _end(_printable(row["image"]), 40),
                "–" if score is None else f"{score:.{places}f}",
                uncertainty_text(row, view, places),
                "–" if stated is None else f"{stated:g}",
                _printable(said),
            ]
        )
    headings = ["image", view.heading, "90 % interval" if view.low else "spread", view.stated_heading, "says"]
    used = sum(max(len(row[at]) for row in [headings, *table]) + 2 for at in range(4))
    left = max(24, width - used)
    for row in table:
        row[4] = row[4] if len(row[4]) <= left else f"{row[4][: left - 2].rstrip()} …"
    return "\n\n".join([text_table(headings, table), *(["\n".join(problems)] if problems else []), view.what])


def uncertainty_text(row: dict[str, Any], view: View, places: int) -> str:
    """The interval of a prediction, or its spread; a dash when there is none."""
    low, high = (row[name] if name else None for name in (view.low, view.high))
    if low is not None and high is not None:
        return f"{low:.{places}f} to {high:.{places}f}"
    spread = row[view.spread] if view.spread else None
    return "–" if spread is None else f"{spread:.{places}f}"


def _printable(text: str) -> str:
    """A text in one line, without what a terminal would obey."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _check_writable(out: str) -> None:
    folder = os.path.dirname(os.path.abspath(out))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if os.path.isdir(out):
        raise DataError(f"{out} is a folder; give the path of a file")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"{out} cannot be written: {folder} is no folder that this user may write to")


def _together(predictions: Predictions, ours: pa.Table) -> pa.Table:
    """The user's columns, and behind them ours."""
    own = predictions.own if predictions.own.num_columns else ours.select(["image"])
    if predictions.names_image:
        ours = ours.drop_columns(["image"])
    else:
        own = own.add_column(0, "image", ours["image"]) if "image" not in own.column_names else own
        ours = ours if "image" in predictions.own.column_names else ours.drop_columns(["image"])
    taken = set(own.column_names)
    for name in ours.column_names:
        own = own.append_column(f"whyscore_{name}" if name in taken else name, ours[name])
    if renamed := sorted(taken & set(ours.column_names)):
        log.info("columns of your table are kept: ours are called %s", ", ".join(f"whyscore_{n}" for n in renamed))
    return own


def _parquet(predictions: Predictions, out: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(_together(predictions, predictions.rows), buffer, compression="zstd")
    return buffer.getvalue()


def _for_people(predictions: Predictions) -> tuple[pa.Table, dict[str, int]]:
    """All columns in the order for people, the distribution as a column a bin, and decimals by column."""
    rows, view = predictions.rows, predictions.view
    if view.distribution:
        for at, name in enumerate(name for name in view.meanings if name.startswith("p_")):
            values = [None if p is None else p[at] for p in rows[view.distribution].to_pylist()]
            rows = rows.append_column(name, pa.array(values, pa.float64()))
    table = _together(predictions, rows.select(list(view.meanings)))
    places = {**dict.fromkeys(view.measured, decimals(rows, view)), **view.rounded}
    own = set(predictions.own.column_names)
    return table, {f"whyscore_{name}" if name in own else name: count for name, count in places.items()}


def _csv(predictions: Predictions, out: str) -> bytes:
    table, places = _for_people(predictions)
    changed = 0

    def cell(name: str, value: Any) -> str:
        nonlocal changed
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:.{places[name]}f}" if name in places else repr(value)
        if isinstance(value, bool):
            return str(value).lower()
        if not isinstance(value, str):
            return str(value)
        text = _in_one_line(value)
        if _FORMULA.match(text):
            changed += 1
            return f"'{text}"
        return text

    written = io.StringIO(newline="")
    lines = csv.writer(written, lineterminator="\r\n")
    lines.writerow([cell("", name) for name in table.column_names])
    for row in table.to_pylist():
        lines.writerow([cell(name, value) for name, value in row.items()])
    if changed:
        log.warning("%s: %d text(s) that a spreadsheet would run as a formula begin with an apostrophe", out, changed)
    return written.getvalue().encode("utf-8-sig")


def _in_one_line(text: str) -> str:
    """A text without line breaks; a text without any stays as it is."""
    return " ".join(part.strip() for part in text.splitlines()).strip() if len(text.splitlines()) > 1 else text.strip()


def _workbook(predictions: Predictions, out: str) -> bytes:
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    table, places = _for_people(predictions)
    view = predictions.view
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("predictions")
    sheet.freeze_panes = "A2"
    cut = 0

    def cell(value: Any, name: str = "", *, bold: bool = False) -> Any:
        nonlocal cut
        if isinstance(value, str):
            text = _UNWRITABLE.sub("", _in_one_line(value))
            cut += len(text) > _CELL
            made = WriteOnlyCell(sheet, text[:_CELL])
            made.data_type = "s"  # never a formula
        else:
            made = WriteOnlyCell(sheet, value if isinstance(value, (int, float, bool)) or value is None else str(value))
        if name in places:
            made.number_format = "0." + "0" * places[name]
        made.alignment = Alignment(vertical="top", wrap_text=name in (view.explanation, "problem"))
        if bold:
            made.font = Font(bold=True)
        return made

    narrow = {"image": 30, view.explanation: 70, "problem": 40, view.text: 40}
    for at, name in enumerate(table.column_names, 1):
        sheet.column_dimensions[get_column_letter(at)].width = narrow.get(name, max(11, min(30, len(name) + 3)))
    sheet.auto_filter.ref = f"A1:{get_column_letter(table.num_columns)}{table.num_rows + 1}"
    sheet.append([cell(name, bold=True) for name in table.column_names])
    for row in table.to_pylist():
        sheet.append([cell(value, name) for name, value in row.items()])
    sheet = book.create_sheet("columns")
    sheet.column_dimensions["A"].width, sheet.column_dimensions["B"].width = 18, 100
    for line in (("model", predictions.model), ("", view.what), *view.meanings.items()):
        sheet.append([cell(text) for text in line])
    if cut:
        log.warning("%s: %d text(s) are cut at %s characters, the limit of a cell", out, cut, f"{_CELL:,}")
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _gallery(predictions: Predictions, out: str) -> bytes:
    from pipeline_lib.use.gallery import gallery_page

    return gallery_page(predictions).encode()
