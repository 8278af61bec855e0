"""Images without scores: a folder, a table whose column `score` is not read, and what cannot be opened."""

from pathlib import Path

import pytest

from pipeline_lib.config.base import Data, ImageData
from pipeline_lib.data.read_images import ReadImages, read_images
from pipeline_lib.data.table import read_image_list
from pipeline_lib.errors import DataError
from pipeline_lib.tables.images import IMAGES, UNREADABLE_IMAGES
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at in range(4):
        picture(f"{at}", 20 + at).save(tmp_path / f"{at}.png")
    (tmp_path / "notes.txt").write_text("no photograph")
    return tmp_path


def read(data: ImageData) -> ReadImages:
    return read_images(read_image_list(data, 0), data.max_unreadable_fraction, data.max_megapixels)


def test_a_folder_of_images_is_a_table_where_no_scores_are_read(folder: Path) -> None:
    found = read(ImageData(table=str(folder)))
    images = conform(found.images, IMAGES.schema, extra_columns=True)
    assert images.column_names == [*IMAGES.schema.names, "split", "group"]
    assert images["image"].to_pylist() == ["0.png", "1.png", "2.png", "3.png"]
    assert images["width_px"].to_pylist() == [20, 21, 22, 23]
    assert conform(found.unreadable, UNREADABLE_IMAGES.schema).num_rows == 0
    with pytest.raises(DataError):
        read_image_list(Data(table=str(folder)), 0)


def test_text_in_a_column_of_scores_disturbs_only_those_who_read_scores(folder: Path) -> None:
    lines = [f"{at}.png,{score},{score}" for at, score in enumerate(("poison", "", "inf", "7"))]
    (folder / "t.csv").write_text("\n".join(["image,score,mood", *lines]))
    table = str(folder / "t.csv")
    images = read(ImageData(table=table, split_column=None)).images
    assert images["user_score"].to_pylist() == ["poison", None, "inf", "7"]
    assert images["mood"].to_pylist() == ["poison", None, "inf", "7"] and "score" not in images.column_names
    with pytest.raises(DataError, match="3 score"):
        read_image_list(Data(table=table, split_column=None), 0)


def test_a_table_without_scores_says_nothing_of_one(folder: Path) -> None:
    (folder / "t.csv").write_text("file\n0.png\n1.png")
    table = str(folder / "t.csv")
    assert read(ImageData(table=table, image_column="file", split_column=None)).images.num_rows == 2
    with pytest.raises(DataError) as error:
        read_image_list(ImageData(table=table), 0)
    assert "image column" in str(error.value) and "score_column" not in str(error.value)


def test_unreadable_images_are_named_and_left_out_up_to_a_limit(folder: Path) -> None:
    (folder / "2.png").write_text("no picture")
    found = read(ImageData(table=str(folder), max_unreadable_fraction=0.5))
    assert found.images["image"].to_pylist() == ["0.png", "1.png", "3.png"]
    assert found.unreadable["image"].to_pylist() == ["2.png"]
    with pytest.raises(DataError, match=r"2\.png"):
        read(ImageData(table=str(folder)))


def test_a_table_without_any_image_is_refused(folder: Path) -> None:
    (folder / "t.csv").write_text("image\n")
    with pytest.raises(DataError, match="no image"):
        read(ImageData(table=str(folder / "t.csv"), split_column=None))
