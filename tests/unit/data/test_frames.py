"""Tables as people have them: each is read like the plain CSV of the same rows, and each guess is said."""

import csv
import io
import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest

from pipeline_lib.config.base import Data
from pipeline_lib.data import files
from pipeline_lib.data.frames import read_table
from pipeline_lib.data.table import check_table, read_image_list
from pipeline_lib.errors import DataError

HEADER = ["image", "score", "split", "comment"]
SPLITS = ["train"] * 10 + ["val"] * 10 + ["test"] * 2
ROWS = [[f"{n:03d}.jpg", 1.25 + n / 2, split, f"Größe {n}"] for n, split in enumerate(SPLITS)]


def plain_csv(separator: str = ",", comma: str = ".", end: str = "\n", after: str = "") -> str:
    rows = [HEADER, *([name, f"{score:.3f}".replace(".", comma), *rest] for name, score, *rest in ROWS)]
    return "".join(separator.join(map(str, row)) + after + end for row in rows)


def workbook(rows: list[list[Any]], *, above: int = 0, sheets: tuple[str, ...] = ("scores",)) -> bytes:
    book = openpyxl.Workbook()
    book.active.title = sheets[0]
    for _ in range(above):
        book.active.append([])
    for row in rows:
        book.active.append(row)
    for name in sheets[1:]:
        book.create_sheet(name)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def json_lines(rows: list[list[Any]]) -> str:
    return "".join(json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def quoted(text: str) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows(csv.reader(io.StringIO(text)))
    return buffer.getvalue()


with_commas = [[name, f"{score:.2f}".replace(".", ","), *rest] for name, score, *rest in ROWS]
TABLES: dict[str, tuple[str, bytes, str]] = {  # ending, content, what a note says
    "as it should be": ("csv", plain_csv().encode(), ""),
    "semicolons": ("csv", plain_csv(";").encode(), "semicolons"),
    "semicolons and decimal commas": ("csv", plain_csv(";", ",").encode(), "decimal commas"),
    "a line that names the separator": ("csv", ("sep=;\r\n" + plain_csv(";", ",", "\r\n")).encode(), "semicolons"),
    "tabs": ("csv", plain_csv("\t").encode(), "tabs"),
    "tsv": ("tsv", plain_csv("\t").encode(), ""),
    "tsv with decimal commas": ("tsv", plain_csv("\t", ",").replace(",250", ",25").encode(), "decimal commas"),
    "tsv with commas": ("tsv", plain_csv().encode(), "commas"),
    "bars": ("csv", plain_csv("|").encode(), "bars"),
    "Windows line ends": ("csv", plain_csv(end="\r\n").encode(), ""),
    "old Mac line ends": ("csv", plain_csv(end="\r").encode(), ""),
    "no line end at the end": ("csv", plain_csv().rstrip().encode(), ""),
    "cp1252": ("csv", plain_csv(";", ",").encode("cp1252"), "Windows-1252"),
    "byte order mark": ("csv", plain_csv().encode("utf-8-sig"), ""),
    "utf-16": ("csv", plain_csv("\t").encode("utf-16"), "tabs"),
    "utf-16, big-endian": ("csv", "\ufeff".encode("utf-16-be") + plain_csv("\t").encode("utf-16-be"), "tabs"),
    "a comma after each row": ("csv", plain_csv(after=",").encode(), ""),
    "a comma after each row but the header": ("csv", plain_csv(after=",").replace("comment,", "comment").encode(), ""),
    "commas after some rows": ("csv", plain_csv().replace("test,Größe 20", "test,Größe 20,,,").encode(), ""),
    "blanks in the header": ("csv", plain_csv().replace("image,score,split", " image, score ,split ").encode(), ""),
    "quotes": ("csv", quoted(plain_csv()).encode(), ""),
    "blank lines": ("csv", plain_csv().replace("\n", "\n\n").encode(), ""),
    "rows of separators at the end": ("csv", (plain_csv() + ",,,\n" * 3).encode(), "3 blank row(s)"),
    "capital ending": ("CSV", plain_csv().encode(), ""),
    "xlsx": ("xlsx", workbook([HEADER, *ROWS]), ""),
    "xlsx with text for numbers": ("xlsx", workbook([HEADER, *with_commas]), "decimal commas"),
    "xlsx below blank rows": ("xlsx", workbook([HEADER, *ROWS], above=3), ""),
    "xlsx with blank rows between": ("xlsx", workbook([HEADER, *ROWS[:5], [], [], *ROWS[5:]]), "2 blank row(s)"),
    "xlsx of several sheets": ("xlsx", workbook([HEADER, *ROWS], sheets=("scores", "notes")), "'scores'"),
    "xlsx that is called csv": ("csv", workbook([HEADER, *ROWS]), "Excel workbook despite"),
    "jsonl": ("jsonl", json_lines(ROWS).encode(), ""),
    "jsonl with a mark and Windows line ends": (
        "jsonl", json_lines(ROWS).replace("\n", "\r\n").encode("utf-8-sig"), "",
    ),
    "jsonl with decimal commas": ("jsonl", json_lines(with_commas).encode(), "decimal commas"),
    "jsonl with blank lines": ("jsonl", json_lines(ROWS).replace("\n", "\n\n").encode(), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_it_is_read_like_the_plain_one_and_says_what_was_guessed(tmp_path: Path, kind: str) -> None:
    ending, content, said = TABLES[kind]
    (tmp_path / f"scores.{ending}").write_bytes(content)
    checked = check_table(Data(table=str(tmp_path / f"scores.{ending}")), 0)
    assert checked.problems == []
    rows = checked.images.rows
    assert list(rows.columns) == ["image", "score", "split", "group", "comment"]
    assert rows["image"].tolist() == [row[0] for row in ROWS]
    assert rows["score"].tolist() == [row[1] for row in ROWS]
    assert rows["comment"].tolist() == [row[3] for row in ROWS]
    assert said in " ".join(checked.notes) and bool(said) == bool(checked.notes), checked.notes


def test_a_plain_table_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    """So that nobody's keys change: types of further columns, names that look like numbers, missing values."""
    text = 'image,score,n,mixed,when,gap,"a, b"\n007,1,1,1,2020-01-01,,"x, y"\nNA,2.5,2,two,2020-01-02,3,\n'
    (tmp_path / "t.csv").write_text(text)
    wanted = pd.read_csv(io.StringIO(text), low_memory=False).assign(image=["007", "NA"])
    pd.testing.assert_frame_equal(read_table(str(tmp_path / "t.csv"), ["image"]).rows, wanted)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    lines = ["", *plain_csv().splitlines(), ""]
    lines[5:5] = ["", ""]
    lines[9] = '"two\nlines.jpg",3,train,"a\nb"'
    lines[14] = ",3,val,no name"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    problems = check_table(Data(table=str(tmp_path / "t.csv")), 0).problems
    assert next(line for line in problems if "line " in line).endswith("empty: line 17")  # two of them inside a cell
    (tmp_path / "t.jsonl").write_text(json_lines(ROWS).replace("\n", "\n\n").replace("003.jpg", " "))
    (problem,) = check_table(Data(table=str(tmp_path / "t.jsonl")), 0).problems
    assert problem.endswith("empty: line 7")
    (tmp_path / "t.xlsx").write_bytes(workbook([HEADER, *ROWS[:3], [], ["", *ROWS[3][1:]], *ROWS[4:]], above=2))
    (problem,) = check_table(Data(table=str(tmp_path / "t.xlsx")), 0).problems
    assert problem.endswith("empty: line 8")


@pytest.mark.parametrize(
    ("ending", "content", "said"),
    [
        ("csv", b"", "empty"),
        ("csv", b"\n\n \n", "empty"),
        (
            "csv",
            plain_csv().replace("Größe 3", "a, b").replace("Größe 8", "c, d").encode(),
            "2 row(s).*line 5, line 10",
        ),
        ("csv", b'image,score,\n"a.jpg,1,\n', "unexpected end of data"),
        ("csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "old or encrypted Excel"),
        ("xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1", "old or encrypted Excel"),
        ("xlsx", plain_csv().encode(), "no Excel workbook"),
        ("xlsx", b"PK\x03\x04 and no more", "no Excel workbook"),
        ("csv", b"\x1f\x8b\x08", "compressed"),
        ("csv", b"<HTML><body>", "web page"),
        ("csv", b"%PDF-1.4", "PDF"),
        ("csv", b"image,score\n\x81\x8d.jpg,1\n", "utf-8"),
        ("jsonl", b'{"image": "a.jpg"}\n{"image": \n', "line 2"),
        ("jsonl", b'{"image": "a.jpg"}\n\n["b.jpg"]\n', "line 3.*b.jpg"),
        ("ods", b"PK", r"\.xlsx"),
        ("json", b"[]", r"\.jsonl"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path: Path, ending: str, content: bytes, said: str) -> None:
    (tmp_path / f"t.{ending}").write_bytes(content)
    with pytest.raises(DataError, match=said.replace("(", r"\(").replace(")", r"\)")) as caught:
        check_table(Data(table=str(tmp_path / f"t.{ending}")), 0)
    assert len(str(caught.value).splitlines()) == 1 and f"t.{ending}" in str(caught.value)


def test_a_comma_that_may_mean_a_thousand_is_not_guessed(tmp_path: Path) -> None:
    rows = [[name, f"1,{200 + n}", *rest] for n, (name, _, *rest) in enumerate(ROWS)]
    (tmp_path / "t.jsonl").write_text(json_lines(rows))
    (problem,) = [text for text in check_table(Data(table=str(tmp_path / "t.jsonl")), 0).problems if "score" in text]
    assert "22 score(s)" in problem and problem.count("'1,2") == 3 and "19 more" in problem


def test_a_string_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    rows = [[name, score, split, "a\u2028b\u0085c\x0bd"] for name, score, split, _ in ROWS]
    (tmp_path / "t.jsonl").write_text(json_lines(rows))
    assert set(read_image_list(Data(table=str(tmp_path / "t.jsonl")), 0).rows["comment"]) == {"a\u2028b\u0085c\x0bd"}
    (tmp_path / "list.txt").write_text("a\u2028b.jpg\r\nc.jpg\rd.jpg\n\n")
    assert files.read_lines(str(tmp_path / "list.txt")) == ["a\u2028b.jpg", "c.jpg", "d.jpg", "", ""]
    (tmp_path / "list.txt").write_bytes("Größe.jpg\n".encode("cp1252"))
    assert files.read_lines(str(tmp_path / "list.txt"))[0] == "Größe.jpg"


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(pd.date_range("2020-01-01", periods=22)),
        pd.Series(pd.date_range("2020-01-01", periods=22, tz="UTC")),
        pd.Series(pd.date_range("2020-01-01", periods=22).date),
        pd.Series(pd.to_timedelta(np.arange(22), unit="h")),
        pd.Series([True, False] * 11),
        pd.Series([[1.0]] * 22),
        pd.Series([{"a": 1}] * 22),
    ],
    ids=lambda values: str(values.iloc[0]),
)
def test_what_is_no_number_is_no_score(tmp_path: Path, values: pd.Series) -> None:
    table = pd.DataFrame(ROWS, columns=HEADER).assign(score=values)
    table.to_parquet(tmp_path / "t.parquet")
    problems = check_table(Data(table=str(tmp_path / "t.parquet")), 0).problems
    assert any("22 score(s) are not finite numbers" in problem for problem in problems)


@pytest.mark.parametrize("values", [[Decimal("1.5")] * 22, [" 1.5 "] * 22, [1.5] * 22, ["15e-1"] * 22])
def test_what_is_a_number_is_a_score(tmp_path: Path, values: list[Any]) -> None:
    pd.DataFrame(ROWS, columns=HEADER).assign(score=values).to_parquet(tmp_path / "t.parquet")
    assert set(check_table(Data(table=str(tmp_path / "t.parquet")), 0).images.rows["score"]) == {1.5}


WRITTEN = {  # as the table has it -> as the file is called
    "Photos\\a.jpg": "Photos/a.jpg",
    "Photos/B.JPG": "Photos/b.jpg",
    " Photos/c.jpg ": "Photos/c.jpg",
    unicodedata.normalize("NFD", "Photos/größe.jpg"): unicodedata.normalize("NFC", "Photos/größe.jpg"),
    unicodedata.normalize("NFC", "Photos/häuser/é.jpg"): unicodedata.normalize("NFD", "Photos/häuser/é.jpg"),
    "./photos/d.jpeg": "Photos/d.jpeg",
}


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_names_are_matched_to_their_files_and_said_once(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    names = [*WRITTEN, *(f"{n}.jpg" for n in range(16))]
    if where == "folder":
        root = str(tmp_path)
        for name in [*WRITTEN.values(), *names[6:]]:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    else:
        import s3fs

        request.getfixturevalue("s3_server")
        s3 = s3fs.S3FileSystem()
        s3.mkdir("spelled")
        root = "s3://spelled"
        for name in [*WRITTEN.values(), *names[6:]]:
            s3.pipe_file(f"spelled/{name}", name.encode())
    table = tmp_path / "scores.csv"
    pd.DataFrame({"image": names, "score": range(22), "split": SPLITS}).to_csv(table, index=False)
    checked = check_table(Data(table=str(table), images=root), 0)
    assert checked.images.rows["image"].tolist() == [*WRITTEN.values(), *names[6:]]
    assert checked.problems == [] and len(checked.notes) == 1
    assert "6 image name(s)" in checked.notes[0] and "and 3 more" in checked.notes[0]
    for name in checked.images.rows["image"]:
        assert checked.images.source.read(name) == name.encode()
    lists = {"test": str(tmp_path / "test.txt")}
    (tmp_path / "test.txt").write_text("\n".join(list(WRITTEN)[:4]))
    listed = check_table(Data(table=str(table), images=root, split_lists=lists), 0)
    assert listed.problems == [] and (listed.images.rows["split"] == "test").tolist() == [True] * 4 + [False] * 18


def test_a_name_that_two_files_could_be_stays_as_it_is(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.jpg"):
        (tmp_path / name).write_bytes(b"")
    table = pd.DataFrame({"image": ["a.JPG", "A.jpg"], "score": [1, 2], "split": "train"})
    table.to_csv(tmp_path / "t.csv", index=False)
    checked = check_table(Data(table=str(tmp_path / "t.csv")), 0)
    assert checked.images.rows["image"].tolist() == ["a.JPG", "A.jpg"] and checked.notes == []


def test_two_names_of_one_file_are_one_image_listed_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    pd.DataFrame({"image": ["a.jpg", "A.JPG"], "score": [1, 2], "split": "train"}).to_csv(tmp_path / "t.csv")
    problems = check_table(Data(table=str(tmp_path / "t.csv")), 0).problems
    assert any("listed more than once" in problem for problem in problems)


def test_a_column_of_another_spelling_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"Image": ["a.jpg"], "SCORE": [1], "split": ["train"]}).to_csv(tmp_path / "t.csv", index=False)
    problems = check_table(Data(table=str(tmp_path / "t.csv")), 0).problems
    assert any("did you mean Image, SCORE?" in problem for problem in problems)


def test_a_header_alone_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,score,split\n")
    assert check_table(Data(table=str(tmp_path / "t.csv")), 0).problems == [
        "there is no image: no rows are below the header"
    ]
