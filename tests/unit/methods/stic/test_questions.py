"""Tables of questions as ScienceQA and TextVQA have them: what is read, what is refused, what a key holds."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.stic.questions import fingerprint, read_images, read_questions
from pipeline_lib.methods.stic.recipe import Questions


def png(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def lines(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows of a table beside whose folder the images are."""
    (tmp_path / "images").mkdir()
    for at in range(2):
        (tmp_path / "images" / f"{at}.png").write_bytes(png(at))
    statements = [{"topic": "colour", "right": ["red"], "wrong": ["blue"]}]
    return [
        {"image": "images/0.png", "split": "test", "question": "What?", "answer": "red", "choices": ["red", "blue"],
         "shows": ["boat"], "statements": statements},
        {"image": "images/0.png", "split": "test", "question": "Where?", "answer": "left", "choices": []},
        {"image": "images/1.png", "split": "train", "question": "Who?", "answer": "nobody"},
        {"image": None, "split": "test", "question": "How many?", "answer": "7"},
    ]  # fmt: skip


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def data(path: Path, **fields: Any) -> Questions:
    return Questions.model_validate({"table": str(path), **fields})


def test_rows_of_a_split_are_read_with_their_image_and_what_it_shows(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    config = data(write(tmp_path, lines))
    found = read_images(read_questions(config, 0), config)
    rows = found.questions.to_pylist()
    assert [row["row"] for row in rows] == [0, 1, 3]
    assert [[image["image"] for image in row["images"]] for row in rows] == [["images/0.png"], ["images/0.png"], []]
    assert rows[0]["images"][0]["width_px"] == 30 and found.images.num_rows == 1 and found.unreadable.num_rows == 0
    assert [row["answers"] for row in rows] == [["red"], ["left"], ["7"]]
    assert rows[0]["shows"] == ["boat"] and rows[1]["shows"] is None
    assert rows[0]["statements"] == lines[0]["statements"] and rows[3 - 1]["statements"] is None
    assert [row["group"] for row in rows] == ["images/0.png", "images/0.png", "row 3"]


def test_choices_are_listed_with_letters_and_the_letter_is_the_answer(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    science = [line | {"answer": at, "choices": ["one", "two"]} for at, line in enumerate(lines[:2])]
    config = data(write(tmp_path, science), list_choices=True, instruction="Answer with the letter.")
    found = read_questions(config, 0).rows.to_dict("records")
    assert found[1]["question"] == "Where?\nA. one\nB. two\nAnswer with the letter."
    assert [row["answers"] for row in found] == [["A"], ["B"]]
    plain = read_questions(data(tmp_path / "questions.jsonl"), 0).rows.to_dict("records")
    assert plain[1]["question"] == "Where?" and plain[1]["answers"] == ["two"]


def test_parquet_with_images_in_it_and_several_answers_as_on_the_hub(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": png(0), "path": "a.png"}, None, {"bytes": png(1), "path": None}],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "question": ["What?", "How many?", "Which?"],
            "answers": [["red", "red", "crimson"], ["7"], ["left"]],
        }
    )
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "validation-00000-of-00001.parquet")
    config = data(tmp_path, answer_column="answers", choices_column=None, split="val", scoring="vqa")
    found = read_images(read_questions(config, 0), config)
    rows = found.questions.to_pylist()
    assert [len(row["images"]) for row in rows] == [1, 0, 1] and found.images.num_rows == 2
    assert rows[0]["answers"] == ["red", "red", "crimson"]


def test_rows_are_drawn_once_by_the_seed(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    many = [lines[0] | {"question": f"What {at}?"} for at in range(40)]
    path = write(tmp_path, many)
    drawn = [list(read_questions(data(path, rows=10), seed).rows["row"]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0] == sorted(drawn[0]) and len(drawn[0]) == 10


@pytest.mark.parametrize(
    ("change", "fields", "named"),
    [
        ({"question": " "}, {}, "row 1: the question is empty"),
        ({"answer": None}, {}, "row 1: the answer is empty"),
        ({"answer": 5}, {}, "answer 5 is the number of no choice"),
        ({"image": "../x.png"}, {}, "not inside the image folder"),
        ({"answer": "green"}, {"list_choices": True}, "none of the choices red, blue"),
        ({"statements": [{"topic": "colour"}]}, {}, "statements must be a list of topics"),
        ({}, {"answer_column": "reply"}, "no column reply"),
        ({}, {"split": "dev"}, "its splits are test, train"),
        ({"image": "images/9.png"}, {}, "images/9.png"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(
    tmp_path: Path, lines: list[dict[str, Any]], change: dict[str, Any], fields: dict[str, Any], named: str
) -> None:
    config = data(write(tmp_path, [lines[0] | change, lines[2]]), **fields)
    with pytest.raises(DataError) as raised:
        read_images(read_questions(config, 0), config)
    assert named in str(raised.value)


def test_unreadable_images_within_the_limit_are_left_out_with_their_questions(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    rows = [*lines[:2], lines[0] | {"image": "images/broken.png"}]
    config = data(write(tmp_path, rows), max_unreadable_fraction=0.5)
    found = read_images(read_questions(config, 0), config)
    assert found.questions["row"].to_pylist() == [0, 1] and found.unreadable["image"].to_pylist() == [
        "images/broken.png"
    ]


def test_the_fingerprint_follows_rows_and_images_and_not_their_place(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    path = write(tmp_path, lines)
    before = fingerprint(read_questions(data(path), 0))
    assert fingerprint(read_questions(data(path), 0)) == before
    (tmp_path / "images" / "0.png").write_bytes(png(7))
    assert fingerprint(read_questions(data(path), 0)) != before
    (tmp_path / "images" / "0.png").write_bytes(png(0))
    write(tmp_path, [lines[0] | {"answer": "blue"}, *lines[1:]])
    assert fingerprint(read_questions(data(path), 0)) != before
    moved = data(path, images=str(tmp_path))
    assert moved.key_fields() == data(path).key_fields()
