"""Split lists name images with or without folder and ending; what is in no list is said."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline_lib.config.base import Data
from pipeline_lib.data.table import CheckedTable, check_table
from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES

COUNT = 60


def check(folder: Path, lists: dict[str, list[str]], images: list[str] | None = None, **data: Any) -> CheckedTable:
    table = pd.DataFrame({"image": images or [f"a/{n:03}.jpg" for n in range(COUNT)]})
    table["score"] = range(len(table))
    table["split"] = "train"
    table["scene"] = [f"s{n // 2}" for n in range(len(table))]
    table.to_csv(folder / "t.csv", index=False)
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n\n")
    paths = {name: str(folder / name) for name in lists}
    return check_table(
        Data.model_validate({"table": str(folder / "t.csv"), "split_lists": paths, **data}), 0, LEAST_IMAGES
    )


@pytest.mark.parametrize("form", ["a/{:03}.jpg", "a/{:03}", "{:03}.jpg", "{:03}", "./a/{:03}.jpg", "other/{:03}.jpg"])
def test_names_may_lack_folder_and_ending(tmp_path: Path, form: str) -> None:
    lists = {"val": [form.format(n) for n in range(10)], "test": [form.format(n) for n in range(10, 20)]}
    (rows, _), problems, _ = check(tmp_path, lists)
    assert problems == [] and rows["split"].tolist() == ["val"] * 10 + ["test"] * 10 + ["train"] * 40
    assert rows["user_split"].tolist() == ["train"] * COUNT  # the table's own column is kept, and not believed


def test_without_a_validation_list_groups_of_the_rest_are_drawn(tmp_path: Path) -> None:
    (rows, _), _, notes = check(
        tmp_path, {"test": [f"{n:03}" for n in range(10)]}, group_column="scene", val_fraction=0.5
    )
    assert (rows["split"] == "test").sum() == 10 and rows["split"][:10].eq("test").all()
    assert 10 < (rows["split"] == "val").sum() < 40 and rows.groupby("group")["split"].nunique().max() == 1
    assert notes == []


def test_with_a_training_list_the_others_are_left_out_and_counted(tmp_path: Path) -> None:
    lists = {"train": [f"{n:03}" for n in range(20)], "test": ["050", "051"]}
    (rows, _), _, notes = check(tmp_path, lists, val_fraction=0.5)
    assert set(rows["image"]) == {f"a/{n:03}.jpg" for n in [*range(20), 50, 51]}
    assert set(rows["split"][:20]) == {"train", "val"} and rows["split"][20:].tolist() == ["test", "test"]
    assert len(notes) == 1 and notes[0].startswith("38 image(s)")


def test_what_does_not_fit_the_table_is_a_problem(tmp_path: Path) -> None:
    lists = {"val": [f"{n:03}" for n in range(10)], "test": ["009", "020", *[f"x{n}" for n in range(7)]]}
    _, problems, _ = check(tmp_path, lists)
    text = "\n".join(problems)
    assert (
        "7 of 9 name(s) are not in the table (data.max_unreadable_fraction allows 0): x0, x1, x2, x3, x4 and 2 mo"
        in text
    )
    assert "a/009.jpg" in text
    _, problems, notes = check(tmp_path, lists, max_unreadable_fraction=0.8)
    assert "not in the table" not in str(problems) and "7 of 9 name(s) are not in the table" in str(notes)


def test_a_name_that_could_mean_two_images_is_a_problem_unless_it_is_exact(tmp_path: Path) -> None:
    images = [f"a/{n:03}.jpg" for n in range(40)] + ["b/000.jpg", "001.jpg"]
    _, problems, _ = check(tmp_path, {"test": ["000", "002"]}, images)
    assert "1 name(s) match more than one" in str(problems)
    (rows, _), problems, _ = check(tmp_path, {"test": ["001.jpg", "002"]}, images)
    assert "more than one" not in str(problems)
    assert rows.loc[rows["split"] == "test", "image"].tolist() == ["a/002.jpg", "001.jpg"]


def test_a_list_that_is_not_there_is_one_problem_among_others(tmp_path: Path) -> None:
    path = str(tmp_path / "none.txt")
    checked = check(tmp_path, {}, split_lists={"test": path})
    assert f"data.split_lists.test: {path} does not exist" in checked.problems
    assert len(checked.images.rows) == COUNT
