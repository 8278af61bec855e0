"""Each known data set in its own format, in small files; and the real label files where they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline_lib.config.base import Data
from pipeline_lib.data.table import check_table, read_image_list
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.bins import fit_bins
from pipeline_lib.tables.images import VOTES_COLUMN


def checked(dataset: str, table: Path, **data: Any) -> pd.DataFrame:
    return check_table(Data.model_validate({"dataset": dataset, "table": str(table), **data}), 0).images.rows


def problems(dataset: str, table: Path, **data: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_image_list(Data.model_validate({"dataset": dataset, "table": str(table), **data}), 0)
    return str(caught.value)


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


AVA = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n2 953958 10 7 15 26 26 21 10 8 1 2 1 21 1396\n"


def test_ava_scores_are_mean_votes(tmp_path: Path) -> None:
    rows = checked("ava", write(tmp_path, {"AVA.txt": AVA}), split_column=None)
    assert rows["image"].tolist() == ["953619.jpg", "953958.jpg"]
    votes = [3] * 5 + [2] + [4] * 17 + [5] * 38 + [6] * 36 + [7] * 15 + [8] * 6 + [9] * 5 + [10]
    assert rows["score"][0] == pytest.approx(np.mean(votes)) and rows["score"].round(3)[0] == 5.637
    assert rows["score_sd"][0] == pytest.approx(np.std(votes))
    assert rows.loc[0, ["votes", "tag_1", "tag_2", "challenge"]].tolist() == [124, 1, 22, 1396]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("3 954184 0 0 4 8 41 56 10 3 4 0 0 0", "found 14"),
        ("3 954184.jpg" + " 1" * 13, "found '3 954184.jpg"),
        ("-" * 99, "-"),
    ],
)
def test_a_line_that_is_not_avas_is_named(tmp_path: Path, line: str, found: str) -> None:
    text = problems("ava", write(tmp_path, {"AVA.txt": AVA + line + "\n"}))
    assert "AVA.txt, line 3" in text and found in text


def test_ava_needs_a_list_or_the_wish_to_draw(tmp_path: Path) -> None:
    lines = "".join(f"{n} {n} {' '.join(['0'] * n + ['5'] + ['1'] * (9 - n))} 0 0 {n}\n" for n in range(10)) * 3
    numbered = "".join(f"{n} {1000 + n} {line.split(' ', 2)[2]}\n" for n, line in enumerate(lines.splitlines()))
    folder = write(tmp_path, {"AVA.txt": numbered, "test.jpgl": "1000\n1001\n1029\n"})
    text = problems("ava", folder)
    assert "generic_test.jpgl" in text and "never published" in text and "data.split_column: null" in text
    rows = checked("ava", folder, split_lists={"test": str(tmp_path / "test.jpgl")}, val_fraction=0.4)
    assert rows.loc[rows["split"] == "test", "image"].tolist() == ["1000.jpg", "1001.jpg", "1029.jpg"]
    assert set(rows["split"]) == {"train", "val", "test"}
    assert "generic_test" not in str(check_table(Data(dataset="ava", table=str(folder), split_column=None), 0).problems)


def test_an_ava_image_without_votes_has_no_score(tmp_path: Path) -> None:
    folder = write(tmp_path, {"AVA.txt": "1 7" + " 0" * 13 + "\n" + AVA})
    assert "7.jpg: nan" in problems("ava", folder, split_column=None)


def aadb(folder: Path, **other: str) -> Path:
    def part(name: str, first: int, count: int) -> str:
        return "".join(f"farm1_{n}_b.jpg {n % 20 / 20}\n" for n in range(first, first + count))

    lists = {"Train": part("Train", 0, 20), "Validation": part("Validation", 20, 10), "TestNew": part("T", 30, 3)}
    files = {f"imgList{name}Regression_score.txt": text for name, text in lists.items()}
    return write(folder, files | {f"imgList{name}Regression_score.txt": text for name, text in other.items()})


def test_aadb_has_three_sets_and_never_the_old_test_list(tmp_path: Path) -> None:
    folder = aadb(tmp_path, Test="farm1_999_b.jpg 0.5\n")
    rows = checked("aadb", folder)
    assert rows["split"].value_counts().to_dict() == {"train": 20, "val": 10, "test": 3}
    assert "farm1_999_b.jpg" not in set(rows["image"])
    assert rows.loc[rows["image"] == "farm1_19_b.jpg", "score"].item() == 0.95
    assert len(checked("aadb", folder / "imgListTrainRegression_score.txt")) == 33


def test_aadb_sets_must_be_disjoint_and_complete(tmp_path: Path) -> None:
    text = problems("aadb", aadb(tmp_path, TestNew="farm1_21_b.jpg 0.5\nfarm1_40_b.jpg 0.5\n"))
    assert "farm1_21_b.jpg" in text and "older Test list" in text
    (tmp_path / "imgListTestNewRegression_score.txt").unlink()
    assert "imgListTestNewRegression_score.txt not found" in problems("aadb", tmp_path)
    assert "line 1" in problems("aadb", aadb(tmp_path / "b", Train="x\n"))


def test_aadb_files_may_carry_their_score_in_their_names(tmp_path: Path) -> None:
    folder = aadb(tmp_path / "labels")
    images = tmp_path / "images256"
    images.mkdir()
    for name in (
        "0.500_farm1_30_b.jpg",
        "farm1_31_b.jpg",
        "0.300_farm1_31_b.jpg",
        "0.1_farm1_32_b.jpg",
        "0.2_farm1_32_b.jpg",
    ):
        (images / name).touch()
    rows = checked("aadb", folder, images=str(images))
    # As it is on disk; the plain name if both are there; untouched, so missing, if two would do.
    assert rows["image"].tolist()[-3:] == ["0.500_farm1_30_b.jpg", "farm1_31_b.jpg", "farm1_32_b.jpg"]
    assert rows["image"][0] == "farm1_0_b.jpg"


def test_aadb_attributes_come_along_and_can_be_the_score(tmp_path: Path) -> None:
    folder = aadb(tmp_path)
    for name, first, count in (("Train", 0, 20), ("Validation", 20, 10), ("TestNew", 30, 2)):  # one image has none
        lines = "".join(f"farm1_{n}_b.jpg {n - 7}\n" for n in range(first, first + count))
        (folder / f"imgList{name}Regression_BalacingElements.txt").write_text(lines)
    rows = checked("aadb", folder)
    assert rows["BalacingElements"][:3].tolist() == [-7, -6, -5] and np.isnan(rows["BalacingElements"].iloc[-1])
    as_score = checked("aadb", folder, score_column="BalacingElements")
    assert as_score["score"][:3].tolist() == [-7, -6, -5] and as_score["user_score"][:2].tolist() == [0, 0.05]
    (folder / "imgListTrainRegression_DoF.txt").write_text("farm1_0_b.jpg 0\n")
    assert "DoF needs imgListTrainRegression_DoF.txt, imgListV" in problems("aadb", folder)


SETS = """image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set
10004473376.jpg,0.0,0.0,0.238,0.695,0.066,105,77.38,0.52,training
10007357496.jpg,0.0,0.031,0.468,0.489,0.010,96,68.72,0.58,test
1.jpg,0.0,0.031,0.468,0.489,0.010,96,4.5,0.58,validation
"""
SCORES = """"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"
"10004473376.jpg",0,0,25,73,7,105,3.828,0.527,77.38
"10007357496.jpg",0,3,45,47,1,96,3.479,0.580,68.72
"1.jpg",0,3,45,47,1,96,1.2,0.580,4.5
"""


def test_koniq_has_one_scale_from_either_file(tmp_path: Path) -> None:
    write(tmp_path, {"koniq10k_distributions_sets.csv": SETS, "koniq10k_scores_and_distributions.csv": SCORES})
    sets = checked("koniq10k", tmp_path)
    assert sets["split"].tolist() == ["train", "test", "val"] and sets["SD"].tolist() == [0.52, 0.58, 0.58]
    scores = checked("koniq10k", tmp_path / "koniq10k_scores_and_distributions.csv")
    assert scores["score"].tolist() == sets["score"].tolist() == [77.38, 68.72, 4.5]
    assert scores["MOS"].tolist() == [3.828, 3.479, 1.2]
    own = checked("koniq10k", tmp_path / "koniq10k_scores_and_distributions.csv", score_column="MOS")
    assert own["score"].tolist() == [3.828, 3.479, 1.2]


def votes(rows: pd.DataFrame) -> dict[float, list[float]]:
    return {float(name.removeprefix("votes_")): rows[name].tolist() for name in rows if VOTES_COLUMN.fullmatch(name)}


def test_koniq_votes_are_on_the_scale_of_the_score(tmp_path: Path) -> None:
    write(tmp_path, {"koniq10k_distributions_sets.csv": SETS, "koniq10k_scores_and_distributions.csv": SCORES})
    hundred = [-1.41, 26.41, 54.22, 82.04, 109.86]
    sets = votes(checked("koniq10k", tmp_path))
    assert list(sets) == pytest.approx(hundred, abs=0.01) and sets[82.04][1:] == [0.489, 0.489]
    scores = votes(checked("koniq10k", tmp_path / "koniq10k_scores_and_distributions.csv"))
    assert list(scores) == list(sets) and scores[54.22] == [25, 45, 45]
    five = "\n".join(line.rsplit(",", 1)[0] for line in SCORES.splitlines())
    alone = write(tmp_path / "five", {"koniq10k_scores_and_distributions.csv": five})
    assert list(votes(checked("koniq10k", alone))) == [1, 2, 3, 4, 5]


def test_votes_of_another_column_than_the_score_are_not_its_votes(tmp_path: Path) -> None:
    folder = write(tmp_path, {"AVA.txt": AVA})
    assert list(votes(checked("ava", folder, split_column=None))) == list(range(1, 11))
    assert not votes(checked("ava", folder, split_column=None, score_column="score_sd"))


@pytest.mark.parametrize("kind", ["xlsx", "csv"])
def test_spaq_columns_are_found_by_name(tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame(
        {
            "Sharpness": [21.3, 50.0],
            "Image name": ["00001.jpg", "00002.jpg"],
            "MOS": [23.67, 60.5],
            "Brightness": [44.83, 1],
            "Colorfulness": [42.67, 1],
            "Contrast": [34.83, 1],
            "Noisiness": [26.33, 1],
        }
    )
    path = tmp_path / f"MOS and Image attribute scores.{kind}"
    table.to_excel(path, index=False) if kind == "xlsx" else table.to_csv(path, index=False)
    rows = checked("spaq", tmp_path)
    assert rows["image"].tolist() == ["00001.jpg", "00002.jpg"] and rows["score"].tolist() == [23.67, 60.5]
    assert checked("spaq", path, score_column="Noisiness")["score"].tolist() == [26.33, 1]
    assert "no column Contrast; its columns are" in problems("spaq", _without(tmp_path, table, "Contrast"))


def _without(folder: Path, table: pd.DataFrame, column: str) -> Path:
    path = folder / "without.csv"
    table.drop(columns=column).to_csv(path, index=False)
    return path


def test_a_file_that_is_no_workbook_is_refused(tmp_path: Path) -> None:
    text = problems("spaq", write(tmp_path, {"MOS and Image attribute scores.xlsx": "Image name,MOS"}))
    assert "scores.xlsx cannot be read" in text


def test_kadid_is_split_by_reference(tmp_path: Path) -> None:
    lines = [f"I{n:02}_{d:02}_01.png,I{n:02}.png,{1 + d / 10},0.496" for n in range(1, 41) for d in range(1, 4)]
    rows = checked("kadid10k", write(tmp_path, {"dmos.csv": "dist_img,ref_img,dmos,var\n" + "\n".join(lines)}))
    assert rows.groupby("group")["split"].nunique().max() == 1 and set(rows["split"]) == {"train", "val", "test"}
    assert rows["image"][0] == "I01_01_01.png" and rows["group"][0] == "I01.png" and rows["score"][2] == 1.3
    assert rows["var"].tolist() == [0.496] * 120


def test_tid_names_are_found_in_any_case_and_split_by_reference(tmp_path: Path) -> None:
    lines = "".join(f"{d / 2} {'Ii'[n % 2]}{n:02}_{d:02}_1.bmp\n" for n in range(1, 41) for d in range(1, 4))
    (tmp_path / "distorted_images").mkdir()
    for name in ("i01_01_1.BMP", "I02_01_1.bmp"):
        (tmp_path / "distorted_images" / name).touch()
    table = write(tmp_path, {"mos_with_names.txt": lines}) / "mos_with_names.txt"
    rows = checked("tid2013", table, images=str(tmp_path / "distorted_images"))
    assert rows["image"][0] == "i01_01_1.BMP" and rows["image"][3] == "I02_01_1.bmp"
    assert rows["group"].nunique() == 40 and rows.groupby("group")["split"].nunique().max() == 1
    assert rows.loc[4, ["score", "group", "distortion", "level"]].tolist() == [1.0, "I02", 2, 1]
    assert "line 1: expected '<mos> I01_01_1.bmp', found '5.5'" in problems(
        "tid2013", write(tmp_path, {"mos_with_names.txt": "5.5\n"})
    )


@pytest.mark.parametrize("dataset", ["ava", "aadb", "koniq10k", "spaq", "kadid10k", "tid2013"])
def test_what_is_not_there_is_named(tmp_path: Path, dataset: str) -> None:
    assert "expected" in problems(dataset, tmp_path) and str(tmp_path) in problems(dataset, tmp_path)
    assert "absent.csv" in problems(dataset, tmp_path / "absent.csv") or dataset == "aadb"


def test_the_real_ava_labels(label_files: Path) -> None:
    rows = checked("ava", label_files / "ava_labels_25551.txt", split_column=None)
    assert len(rows) == 25_551 and rows["score"].mean() == pytest.approx(5.377, abs=5e-4)
    assert rows["score"].std() == pytest.approx(0.734, abs=5e-4)
    edges = fit_bins(rows["score"].to_numpy()).edges
    assert edges.round(3).tolist() == [4.449, 4.781, 5.008, 5.208, 5.381, 5.561, 5.752, 5.982, 6.304]


def test_the_real_koniq_labels(label_files: Path) -> None:
    rows = read_image_list(Data(dataset="koniq10k", table=str(label_files / "koniq10k_distributions_sets.csv")), 0).rows
    assert rows["split"].value_counts().to_dict() == {"train": 7058, "test": 2015, "val": 1000}
    assert rows["score"].min() > 0 and 80 < rows["score"].max() < 100
    mean_votes = sum(np.array(shares) * value for value, shares in votes(rows).items())
    assert np.abs(mean_votes - rows["score"]).mean() < 1.5 and np.abs(mean_votes - rows["score"]).max() < 6


def test_the_real_aadb_labels(label_files: Path, tmp_path: Path) -> None:
    for name in ("Train", "TestNew"):
        file = f"imgList{name}Regression_score.txt"
        (tmp_path / file).symlink_to(label_files / file)
    (tmp_path / "imgListValidationRegression_score.txt").write_text("".join(f"v{n}.jpg 0.{n}\n" for n in range(10)))
    rows = read_image_list(Data(dataset="aadb", table=str(tmp_path)), 0).rows
    train = rows.loc[rows["split"] == "train", "score"]
    assert rows["split"].value_counts().to_dict() == {"train": 8458, "test": 1000, "val": 10}
    assert (round(train.mean(), 3), round(train.std(), 3), train.nunique()) == (0.511, 0.184, 63)
