"""Files of predictions: what Excel opens, what keeps every digit, and the page with the images."""

import csv
import io
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.tables import NEW_RATINGS
from pipeline_lib.methods.self_improve.tables import NEW_PREDICTIONS
from pipeline_lib.tables.images import NEW_IMAGES
from pipeline_lib.testing.tiny import model_ref
from pipeline_lib.use.new_images import find_new_images, read_new_image
from pipeline_lib.use.output import MOST_IN_GALLERY, Predictions, check_size, terminal_table, writer
from pipeline_lib.use.views import RATINGS, scores_of

P = [0.0, 0.0, 0.05, 0.1, 0.15, 0.3, 0.2, 0.1, 0.05, 0.05]


def row(image: str, score: float, text: str = "It is\nsharp.", **more: Any) -> dict[str, Any]:
    return {
        "image": image, "image_sha256": "", "predicted": score, "reading": "monotone", "interval_low": score - 1,
        "interval_high": score + 1, "score_distribution": P, "digit_mass": 0.98765, "parsed": True, "stated_score": 5,
        "explanation": text, "text": f"#Score: 5\n\n#Explain: {text}", **more,
    }  # fmt: skip


@pytest.fixture
def found(tmp_path: Path) -> Predictions:
    """A table of the user's with four images, one of which is broken."""
    for name, colour in (("a.png", "red"), ("=b.png", "blue"), ("c.png", "green")):
        Image.new("RGB", (1600, 800), colour).save(tmp_path / name)
    (tmp_path / "broken.png").write_text("no picture")
    table = tmp_path / "mine.csv"
    table.write_text(
        'client,image,price,predicted\n"A\nB",a.png,-1.5,x\n=SUM(1),=b.png,2,y\n,c.png,,z\n-1 C,broken.png,3,w\n'
    )
    new = find_new_images([str(table)], "image")
    images = []
    for place in new.places:
        image = read_new_image(place.path, 100, model_ref(tmp_path))._asdict()
        images.append({"image": place.name, "path": place.path, **{k: image[k] for k in image if k != "pixels"}})
    rows = [row("a.png", 6.54321), row("=b.png", 4.0, "=1+1 <b>& more"), row("c.png", 9.5)]
    rows.append({"image": "broken.png", "image_sha256": "", "problem": "not an image\nfile"})
    return Predictions(
        pa.Table.from_pylist(rows, schema=NEW_PREDICTIONS.schema),
        scores_of("mos"),
        "ite-2 merged of run demo",
        pa.Table.from_pylist(images, schema=NEW_IMAGES.schema),
        new.own,
        new.names_image,
    )


def test_excel_reads_the_csv_rightly(found: Predictions, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    writer(str(out))(found)
    content = out.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfclient,image,price,predicted,whyscore_predicted,interval_low,")
    assert content.count(b"\n") == content.count(b"\r\n") == 5
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert [r["client"] for r in rows] == ["A B", "'=SUM(1)", "", "'-1 C"]
    assert [r["image"] for r in rows] == ["a.png", "'=b.png", "c.png", "broken.png"]
    assert [r["price"] for r in rows] == ["-1.5", "2.0", "", "3.0"]
    assert [r["predicted"] for r in rows] == list("xyzw")
    assert [r["whyscore_predicted"] for r in rows] == ["6.54", "4.00", "9.50", ""]
    assert (rows[0]["interval_high"], rows[0]["p_5"], rows[0]["digit_mass"]) == ("7.54", "0.300", "0.988")
    assert rows[0]["explanation"] == "It is sharp." and rows[1]["explanation"] == "'=1+1 <b>& more"
    assert rows[3]["problem"] == "not an image file"


def test_scores_of_a_small_scale_keep_three_figures(found: Predictions, tmp_path: Path) -> None:
    low = pa.Table.from_pylist([row("a", 0.4567, interval_low=0.1, interval_high=0.9)], schema=NEW_PREDICTIONS.schema)
    alone = found._replace(rows=low, own=found.own.slice(0, 1), images=found.images.slice(0, 1))
    writer(str(tmp_path / "p.csv"))(alone)
    assert next(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8-sig")))["whyscore_predicted"] == "0.457"


def test_a_workbook_has_numbers_and_no_formula(found: Predictions, tmp_path: Path) -> None:
    writer(str(tmp_path / "p.xlsx"))(found)
    book = openpyxl.load_workbook(tmp_path / "p.xlsx")
    sheet = book["predictions"]
    heads = [cell.value for cell in sheet[1]]
    cell = sheet.cell(2, heads.index("whyscore_predicted") + 1)
    assert cell.value == pytest.approx(6.54321) and cell.number_format == "0.00"
    assert not any(cell.data_type == "f" for line in sheet.iter_rows() for cell in line)
    assert sheet.cell(3, 1).value == "=SUM(1)" and sheet.freeze_panes == "A2"
    meanings = dict(line for line in book["columns"].iter_rows(values_only=True) if line[0])
    assert "bin" in meanings["stated_score"] and "column mos" in meanings["predicted"]


def test_parquet_keeps_every_digit(found: Predictions, tmp_path: Path) -> None:
    writer(str(tmp_path / "p.parquet"))(found)
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert rows[0]["whyscore_predicted"] == 6.54321 and rows[0]["score_distribution"] == P
    assert rows[0]["explanation"] == "It is\nsharp." and rows[0]["client"] == "A\nB"


def test_the_gallery_is_one_page_with_every_image(found: Predictions, tmp_path: Path) -> None:
    writer(str(tmp_path / "p.html"))(found)
    page = (tmp_path / "p.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count('<article class="card"') == 3
    assert page.index("c.png") < page.index("a.png")  # the best one first
    assert 'width="1024" height="512"' in page and "not an image" in page
    assert "&lt;b&gt;&amp; more" in page and "<b>& more" not in page
    assert 'data-uncertainty="2.0"' in page and "5.54 to 7.54" in page and page.count('class="bins"') == 3
    assert "http://" not in page and "https://" not in page and 'src="data:' in page
    assert "column mos" in page and "another scale" in page


def test_ratings_have_a_gallery_and_a_table_too(found: Predictions, tmp_path: Path) -> None:
    rows = [{"image": "a.png", "rating": 3.25, "spread": 0.5, "stated": 3.0, "ratings": 4, "stated_answer": "3"}]
    rows.append({"image": "b.png", "rating": None, "ratings": 0, "problem": "none could be read"})
    table = pa.Table.from_pylist(rows, schema=NEW_RATINGS.schema)
    ratings = Predictions(table, RATINGS, "round 1", found.images.slice(0, 2), pa.table({}))
    for ending in ("html", "csv", "xlsx", "parquet"):
        writer(str(tmp_path / f"r.{ending}"))(ratings)
    page = (tmp_path / "r.html").read_text()
    assert "3.25" in page and 'data-uncertainty="0.5"' in page and "none could be read" in page
    first = next(csv.DictReader((tmp_path / "r.csv").open(encoding="utf-8-sig")))
    assert (first["image"], first["rating"], first["stated"]) == ("a.png", "3.25", "3.0")
    assert "rating (1-5)" in terminal_table(table, RATINGS, shown=5, width=100)


def test_the_terminal_names_each_scale(found: Predictions) -> None:
    text = terminal_table(found.rows, found.view, shown=3, width=110)
    lines = text.splitlines()
    assert "mos (own scale)" in lines[0] and "bin stated (0-9)" in lines[0]
    assert max(map(len, lines[:5])) <= 110 and "6.54" in lines[2] and "5.54 to 7.54" in lines[2]
    assert "broken" not in text and "another scale" in text


@pytest.mark.parametrize("ending", ["csv", "xlsx", "parquet", "html"])
def test_a_file_is_replaced_only_when_asked(found: Predictions, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"there.{ending}"
    out.write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        writer(str(out))
    assert out.read_text() == "mine"
    writer(str(out), overwrite=True)(found)
    assert out.read_bytes() != b"mine"


def test_another_ending_is_refused() -> None:
    with pytest.raises(DataError, match=r"\.csv, \.xlsx, \.parquet, \.html"):
        writer("p.txt")


def test_a_page_of_too_many_images_is_refused() -> None:
    check_size("p.html", MOST_IN_GALLERY)
    with pytest.raises(DataError, match="2,001"):
        check_size("p.html", MOST_IN_GALLERY + 1)
    check_size("p.csv", 10**7)
    check_size(None, 10**7)


def test_folders_are_looked_into_when_asked(tmp_path: Path) -> None:
    (tmp_path / "inner" / "most").mkdir(parents=True)
    for name in ("a.png", "inner/b.png", "inner/most/c.jpg", "inner/notes.txt"):
        (tmp_path / name).write_text("")

    def names(**more: bool) -> list[str]:
        return [place.name for place in find_new_images([str(tmp_path)], "image", **more).places]

    assert names() == ["a.png"]
    assert names(recursive=True) == ["a.png", "inner/b.png", "inner/most/c.jpg"]
