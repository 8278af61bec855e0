"""Tables of pairs with a known preference: one's own, VL-RewardBench and Multimodal RewardBench, with made rows."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_judge.answer_pairs import image_data, pairs_table, read_pairs
from pipeline_lib.methods.self_judge.recipe import JudgedPairs

OWN = {"image": "a.png", "question": "Where?", "answer_a": "left", "answer_b": "right", "better": "b"}
VL = {
    "id": "RLAIF-V-14",
    "image_path": "images/rlaif-v/RLAIF-V-14.jpg",
    "query": "Describe.",
    "response": ["good", "bad"],
    "human_ranking": [0, 1],
    "query_source": "COCO",
}
MM = {
    "ID": "math_1",
    "Image": "math/1.png",
    "Text": "1 + 1?",
    "Output1": "3",
    "Output2": "2",
    "Better": "Output2",
    "Category": "reasoning",
}


def _read(folder: Path, table: list[Any], kind: str, ending: str = ".jsonl", **fields: Any) -> pd.DataFrame:
    lines = "".join(json.dumps(row) + "\n" for row in table)
    (folder / f"t{ending}").write_text(json.dumps(table) if ending == ".json" else lines)
    data = JudgedPairs.model_validate({"name": "n", "table": str(folder / f"t{ending}"), "format": kind} | fields)
    return read_pairs(data, 0).rows


def test_own_tables_name_the_better_answer(tmp_path: Path) -> None:
    rows = _read(tmp_path, [OWN, OWN | {"better": "A", "dimension": "place", "group": "g"}], "pairs")
    assert rows[["better", "worse", "dimension", "group"]].to_numpy().tolist() == [
        ["right", "left", "all", "a.png"],
        ["left", "right", "place", "g"],
    ]
    assert rows["pair_id"].is_unique


def test_vl_rewardbench_ranks_responses_from_0(tmp_path: Path) -> None:
    others = [
        VL | {"response": ["bad", "good"], "human_ranking": [1, 0], "image_path": "images/vlfeedback/1.jpg"},
        VL | {"id": "MathVerse_3", "image_path": "images/reasoning_tasks/3.jpg"},
        VL | {"id": "wildvision-7", "image_path": "images/wildvision-battle/7.jpg"},
    ]
    rows = _read(tmp_path, [VL, *others], "vl_rewardbench")
    assert rows["better"].tolist() == ["good"] * 4 and rows["worse"].tolist() == ["bad"] * 4
    assert rows["dimension"].tolist() == ["hallucination", "general", "reasoning", "general"]


def test_vl_rewardbench_in_parquet_holds_its_images(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    row = {name: VL[name] for name in ("id", "query", "response", "human_ranking", "query_source")}
    table = pa.Table.from_pylist([row | {"image": {"bytes": buffer.getvalue(), "path": None}}] * 2)
    pq.write_table(table, tmp_path / "t.parquet")
    data = JudgedPairs(name="n", table=str(tmp_path / "t.parquet"), format="vl_rewardbench")
    found = read_pairs(data, 0)
    assert found.rows["image"].is_unique and found.rows["dimension"].tolist() == ["hallucination"] * 2
    assert found.images.source.read(found.rows["image"][0]) == buffer.getvalue()
    assert image_data(data).image_column == "image"


def test_multimodal_rewardbench_divides_safety_and_reasoning_by_the_id(tmp_path: Path) -> None:
    others = [MM | {"ID": "code-9"}, MM | {"Category": "safety", "ID": "PAIRS_2"}]
    others += [MM | {"Category": "safety"}, MM | {"Category": "vqa", "Better": "Output1"}]
    rows = _read(tmp_path, [MM, *others], "multimodal_rewardbench", ending=".json")
    assert rows["better"].tolist() == ["2"] * 4 + ["3"]
    assert rows["dimension"].tolist() == [
        *("reasoning/math", "reasoning/coding", "safety/bias", "safety/toxicity", "vqa")
    ]


def test_pairs_of_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(OWN | {"image": name}) + "\n" for name in ("a.png", "b.png")))
    found = read_pairs(JudgedPairs(name="n", table=str(tmp_path / "t.jsonl")), 0)
    images = pa.table({"image": ["b.png"], "image_sha256": ["s"], "width_px": [8], "height_px": [8]})
    assert pairs_table(found, images)["image"].to_pylist() == ["b.png"]


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        ([OWN | {"better": "C"}], "pairs", "row 1: better is 'C'"),
        ([OWN | {"answer_b": "left"}], "pairs", "equal"),
        ([OWN | {"answer_b": " "}], "pairs", "empty"),
        ([OWN | {"image": "../x.png"}], "pairs", "inside the image folder"),
        ([VL], "pairs", "answer_a"),
        ([VL | {"human_ranking": [0, 0]}], "vl_rewardbench", "ranks 0 and 1"),
        ([VL | {"response": ["one"]}], "vl_rewardbench", "two responses"),
        ([MM | {"Better": "Output3"}], "multimodal_rewardbench", "Output3"),
        ([], "pairs", "column|row"),
    ],
)
def test_rows_that_say_nothing_are_refused(rows: list[Any], kind: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        _read(tmp_path, rows, kind)


def test_a_number_of_pairs_is_drawn_once(tmp_path: Path) -> None:
    rows = [OWN | {"image": f"{at}.png"} for at in range(20)]
    drawn = [_read(tmp_path, rows, "pairs", rows=5)["image"].tolist() for _ in range(2)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 5 and drawn[0] != [f"{at}.png" for at in range(5)]
