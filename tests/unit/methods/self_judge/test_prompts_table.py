"""Tables of images with questions: rows of one image, splits, kinds, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline_lib.config.base import SplitLists
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_judge.prompts_table import fingerprint, prompts_table, read_prompts
from pipeline_lib.methods.self_judge.recipe import PromptData

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "split": "train", "question": "How many?", "answer": 2},
    {"image": "a.png", "split": "train", "question": "What is it?", "answer": None},
    {"image": "b.png", "split": "val", "question": "How many?", "answer": "3"},
]


def _data(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> PromptData:
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (folder / str(row["image"])).write_bytes(b"pixels")
    return PromptData(table=str(folder / "t.jsonl"), **fields)


def _table(folder: Path, data: PromptData, images: tuple[str, ...] = ("a.png", "b.png")) -> list[dict[str, Any]]:
    facts = pa.table(
        {
            "image": list(images),
            "image_sha256": ["s"] * len(images),
            "width_px": [9] * len(images),
            "height_px": [9] * len(images),
        }
    )
    return prompts_table(read_prompts(data, 0), facts).to_pylist()


def test_an_image_may_stand_in_several_rows_and_is_read_once(tmp_path: Path) -> None:
    data = _data(tmp_path, ROWS, answer_column="answer", open_prompts=("Describe.", "What is there?"))
    prompts = read_prompts(data, 0)
    assert prompts.images.rows.to_dict("list") == {
        "image": ["a.png", "b.png"],
        "split": ["train", "val"],
        "group": ["a.png", "b.png"],
    }
    rows = _table(tmp_path, data)
    assert [row["prompt_id"] for row in rows] == [
        *("a.png:closed:0", "a.png:closed:1", "b.png:closed:0", "a.png:open:0", "b.png:open:0")
    ]
    assert [row["answer"] for row in rows] == ["2", None, "3", None, None]
    assert {row["question"] for row in rows if row["kind"] == "open"} <= {"Describe.", "What is there?"}
    assert _table(tmp_path, data, images=("b.png",))[0]["image"] == "b.png"  # one that could not be read is left out
    (tmp_path / "a.png").write_bytes(b"other pixels")
    assert fingerprint(read_prompts(data, 0)) != fingerprint(prompts._replace(rows=prompts.rows[:1]))


def test_rows_say_their_kind_and_splits_can_be_drawn(tmp_path: Path) -> None:
    rows = [{"image": f"{at}.png", "question": "?", "kind": ("open", "Closed")[at % 2]} for at in range(20)]
    data = _data(tmp_path, rows, kind_column="kind", split_column=None)
    prompts = read_prompts(data, 0)
    assert prompts.rows["kind"].tolist() == ["open", "closed"] * 10
    assert set(prompts.rows["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        (ROWS[:2], {}, "0 val image"),
        ([*ROWS, {"image": "a.png", "split": "val", "question": "?"}], {}, "more than one split: a.png"),
        ([*ROWS, {"image": "c.png", "split": "odd", "question": "?"}], {}, "split"),
        (ROWS, {"question_column": "asked"}, "no column asked"),
        (ROWS, {"question_column": None}, "there is no question"),
        (ROWS, {"kind_column": "answer"}, "not open or closed"),
        (ROWS, {"dataset": "ava"}, "dataset: table"),
        (ROWS, {"split_lists": SplitLists(val="v.txt")}, "split_column"),
    ],
)
def test_problems_of_a_table_are_named(rows: list[Any], fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read_prompts(_data(tmp_path, rows, **fields), 0)
