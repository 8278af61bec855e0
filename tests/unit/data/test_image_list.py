"""Users' tables: everything that is wrong is said at once; what is right stays as it is."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.config.base import Data
from pipeline_lib.data.sources import LocalFolder
from pipeline_lib.data.splits import draw_splits
from pipeline_lib.data.table import ImageList, fingerprint, read_image_list
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES
from pipeline_lib.tables.table import write_parquet

SPLIT = ["train"] * 10 + ["val"] * 10 + ["test"] * 2


def frame(**columns: Any) -> pd.DataFrame:
    rows = {"image": [f"{n}.jpg" for n in range(22)], "score": [float(n) for n in range(22)], "split": SPLIT}
    return pd.DataFrame(rows | columns)


def read(folder: Path, table: pd.DataFrame | str | bytes, seed: int = 0, **data: Any) -> ImageList:
    path = folder / "scores.csv"
    if isinstance(table, pd.DataFrame):
        table.to_csv(path, index=False)
    else:
        path.write_bytes(table.encode() if isinstance(table, str) else table)
    return read_image_list(Data(table=str(path), **data), seed, LEAST_IMAGES)


def problems(folder: Path, table: pd.DataFrame | str | bytes, **data: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, table, **data)
    return str(caught.value)


def test_a_good_table_comes_back_as_it_is(tmp_path: Path) -> None:
    images = read(tmp_path, frame(mood=["calm"] * 22))
    assert list(images.rows.columns) == ["image", "score", "split", "group", "mood"]
    assert images.rows["group"].tolist() == images.rows["image"].tolist()
    assert isinstance(images.source, LocalFolder) and images.source.root == tmp_path
    elsewhere = read(tmp_path, frame(), images="elsewhere").source
    assert isinstance(elsewhere, LocalFolder) and elsewhere.root == Path("elsewhere")


def test_columns_may_have_any_name_and_splits_their_usual_ones(tmp_path: Path) -> None:
    table = frame().rename(columns={"image": "file", "score": "MOS", "split": "set"})
    table["set"] = [" Training", "dev"][0:1] * 10 + ["validation"] * 10 + ["Testing"] * 2
    rows = read(tmp_path, table, image_column="file", score_column="MOS", split_column="set").rows
    assert rows["split"].tolist() == SPLIT


def test_every_problem_is_in_one_error(tmp_path: Path) -> None:
    table = frame(source=[f"s{n}" for n in range(22)]).astype({"image": object, "score": object})
    table.loc[0, "image"] = None
    table.loc[1, "image"] = "../secret.jpg"
    table.loc[2, "image"] = "/etc/passwd.jpg"
    table.loc[3, "image"] = "4.jpg"
    table.loc[5, "score"] = "high"
    table.loc[6, "score"] = "inf"
    table.loc[7, "split"] = "holdout"
    table.loc[8, "source"] = "s12"
    table.loc[21, "split"] = "train"
    table.loc[9, "source"] = None
    text = problems(tmp_path, table, group_column="source")
    for part in (
        r"1 image path\(s\).*empty: line 2",
        r"2 image path\(s\).*data\.images.*: \.\./secret",
        r"1 image\(s\).*: 4\.jpg",
        r"2 score\(s\).*: 5\.jpg: 'high', 6\.jpg: 'inf'",
        r"1 split\(s\).*: holdout",
        r"1 group\(s\).*: s12",
        r"1 test image\(s\), at least 2",
        r"1 group\(s\).*empty: line 11",
    ):
        assert re.search(part, text), part
    assert "8 problem(s)" in text


def test_too_few_or_constant_training_scores_are_problems(tmp_path: Path) -> None:
    text = problems(tmp_path, frame(score=[3.0] * 10 + list(range(12))))
    assert "all 10 training scores are 3" in text
    table = frame(split=["train"] * 9 + ["val"] * 11 + ["test"] * 2)
    assert "9 train image(s), at least 10" in problems(tmp_path, table)


def test_long_lists_of_problems_are_shortened(tmp_path: Path) -> None:
    assert re.search(r"20 score\(s\).*: 0\.jpg", problems(tmp_path, frame(score=["x"] * 20 + [1, 2])))
    assert "and 15 more" in problems(tmp_path, frame(score=["x"] * 20 + [1, 2]))


def test_missing_columns_are_named_with_those_there_are(tmp_path: Path) -> None:
    text = problems(tmp_path, frame().drop(columns="split"), score_column="mos")
    assert "no score column 'mos', no split column 'split'" in text
    assert "data.split_column: null" in text and "its columns are image, score" in text


def test_image_names_that_look_like_numbers_stay_what_they_are(tmp_path: Path) -> None:
    names = [f"{n:05d}" for n in range(22)]
    names[3], names[4], names[5] = "1e5", "NA", "null"
    rows = read(tmp_path, frame(image=names, source=[f"{n:03d}" for n in range(22)]), group_column="source").rows
    assert rows["image"].tolist() == names
    assert rows["group"].tolist() == [f"{n:03d}" for n in range(22)]
    pq.write_table(pa.table({"image": range(22), "score": range(22), "split": SPLIT}), tmp_path / "t.parquet")
    parquet = read_image_list(Data(table=str(tmp_path / "t.parquet")), 0).rows
    assert parquet["image"].tolist() == [str(n) for n in range(22)]


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_image_path_in_a_parquet_table_is_empty_too(tmp_path: Path, blank: str) -> None:
    table = frame()
    table.loc[0, "image"] = blank
    pq.write_table(pa.Table.from_pandas(table), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"1 image path.s. .*empty"):
        read_image_list(Data(table=str(tmp_path / "t.parquet")), 0)


def test_files_that_are_no_table_are_refused_with_their_path(tmp_path: Path) -> None:
    assert "scores.csv cannot be read" in problems(tmp_path, b"image,score\n\xff\xfe.jpg,1\n")
    assert "scores.csv cannot be read" in problems(tmp_path, b"")
    assert "scores.csv cannot be read" in problems(tmp_path, 'image,score,split\n"open,1,train\n')
    assert "0 train image(s)" in problems(tmp_path, "image,score,split\n")
    with pytest.raises(DataError, match=r"absent\.csv.*data\.table"):
        read_image_list(Data(table=str(tmp_path / "absent.csv")), 0)
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"t\.parquet cannot be read"):
        read_image_list(Data(table=str(tmp_path / "t.parquet")), 0)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv.*metadata\.csv"):
        read_image_list(Data(table=str(tmp_path / "folder.csv")), 0)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    buffer = io.StringIO()
    frame().to_csv(buffer, index=False)
    assert len(read(tmp_path, b"\xef\xbb\xbf" + buffer.getvalue().encode()).rows) == 22


def test_further_columns_of_any_kind_survive_to_parquet(tmp_path: Path) -> None:
    table = frame(
        bin=["user's own"] * 22,
        width_px=["wide"] * 22,
        mixed=[1, 2.5, "three", None, True, "2020-01-01"] * 3 + [0] * 4,
        seldom=[None] * 21 + [1],
        nothing=[None] * 22,
        big=[2**63 + 1] * 22,
        yes=[True, False] * 11,
        when=pd.Timestamp("2020-01-01"),
    )
    rows = read(tmp_path, table).rows
    assert {"user_bin", "user_width_px"} < set(rows.columns) and "bin" not in rows.columns
    assert [None if pd.isna(value) else str(value) for value in rows["mixed"][:4]] == ["1", "2.5", "three", None]
    arrow = pa.Table.from_pandas(rows, preserve_index=False)
    checked = pa.schema([pa.field("image", pa.string(), nullable=False), pa.field("score", pa.float64())])
    write_parquet(tmp_path / "images.parquet", arrow, checked, extra_columns=True)
    back = pq.read_table(tmp_path / "images.parquet").to_pandas()
    assert back["user_bin"].tolist() == ["user's own"] * 22 and set(back.columns) == set(rows.columns)


def test_a_column_whose_type_changes_far_down_survives_to_parquet(tmp_path: Path) -> None:
    count = 30_000  # read in chunks, the first of which look like numbers
    lines = [f"{n}.jpg,{n},{'train' if n < 1e4 else 'val' if n < 2e4 else 'test'},{n}" for n in range(count)]
    lines[-1] = lines[-1].rsplit(",", 1)[0] + ",text"
    rows = read(tmp_path, "image,score,split,tag\n" + "\n".join(lines)).rows
    tags = pa.Table.from_pandas(rows, preserve_index=False)["tag"].to_pylist()
    assert [tags[0], tags[-2], tags[-1]] == ["0", str(count - 2), "text"]


def test_drawn_splits_keep_groups_together_and_have_about_the_wanted_shares(tmp_path: Path) -> None:
    count = 4000
    groups = [f"g{n // 4}" for n in range(count)]
    table = pd.DataFrame({"image": [f"{n}.jpg" for n in range(count)], "score": np.arange(count), "source": groups})
    rows = read(tmp_path, table, split_column=None, group_column="source", val_fraction=0.1, test_fraction=0.2).rows
    assert rows.groupby("group")["split"].nunique().max() == 1
    shares = rows["split"].value_counts(normalize=True)
    assert abs(shares["test"] - 0.2) < 0.04 and abs(shares["val"] - 0.1) < 0.03


def test_drawn_splits_stay_when_rows_are_added_and_change_with_the_seed() -> None:
    groups = pd.Series([f"g{n}" for n in range(500)])
    before, after = draw_splits(groups[::2], 0.1, 0.2, 0), draw_splits(groups[::-1], 0.1, 0.2, 0)
    assert (after[before.index] == before).all()
    assert (draw_splits(groups, 0.1, 0.2, 1) != draw_splits(groups, 0.1, 0.2, 0)).any()


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    def of(folder: Path, **columns: Any) -> str:
        folder.mkdir(exist_ok=True)
        (folder / "0.jpg").write_bytes(b"12345")
        return fingerprint(read(folder, frame(**columns)))

    first = of(tmp_path / "a")
    assert first == of(tmp_path / "b") and re.fullmatch("[0-9a-f]{64}", first)
    assert first != of(tmp_path / "a", score=[1.5, *range(1, 22)])
    assert first != of(tmp_path / "a", mood=["calm"] * 22)
    images = read(tmp_path / "a", frame())
    (tmp_path / "a" / "0.jpg").write_bytes(b"123456")
    assert fingerprint(images) != first
    (tmp_path / "a" / "0.jpg").unlink()
    assert fingerprint(images) != first


def test_a_change_of_how_deep_pixels_are_read_changes_the_keys_of_files_that_may_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read(tmp_path, frame())
    deep = read(tmp_path, frame(image=[f"{n}.TIF" for n in range(22)]))
    before = fingerprint(plain), fingerprint(deep)
    monkeypatch.setattr("pipeline_lib.data.table._DEEP_VERSION", "pixels 3")
    assert fingerprint(plain) == before[0] and fingerprint(deep) != before[1]
