"""Figures of answers and descriptions beside counts by hand; paired differences of models."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.stic.figures import (
    Model,
    answer_metrics,
    check_descriptions,
    description_metrics,
    differences,
    score_answers,
    shares_by_topic,
)
from pipeline_lib.methods.stic.recipe import Questions
from pipeline_lib.methods.stic.tables import ANSWERS, DESCRIPTIONS, QUESTIONS

CONFIG = Questions(table="t.jsonl", things=("dog",))
BOOTSTRAP = Bootstrap(bootstrap_samples=300)
TOPICS = [
    {"topic": "colour", "right": ["red"], "wrong": ["blue"]},
    {"topic": "place", "right": ["left"], "wrong": ["right side"]},
]
COUNT = 40


def questions(known: bool = True) -> pa.Table:
    rows = [
        {
            "row": at,
            "images": [{"image": f"{at}.png", "image_sha256": "0" * 64, "width_px": 9, "height_px": 9}],
            "question": "What?",
            "answers": ["boat"],
            "choices": [],
            "group": f"group {at // 2}",
            "shows": ["boat" if at % 2 else "tree"] if known else None,
            "statements": TOPICS if known else None,
        }
        for at in range(COUNT)
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS.schema)


def answers(right: int) -> pa.Table:
    rows = [{"row": at, "answer": "boat" if at < right else "", "finished": True} for at in range(COUNT)]
    return pa.Table.from_pylist(rows, schema=ANSWERS.schema)


def checked(texts: list[str], known: bool = True) -> pa.Table:
    rows = [
        {"image": f"{at}.png", "image_sha256": "0" * 64, "description": texts[at % len(texts)], "tokens": 3,
         "finished": True, "image_tokens": 3}
        for at in range(COUNT)
    ]  # fmt: skip
    return check_descriptions(questions(known), pa.Table.from_pylist(rows, schema=DESCRIPTIONS.schema), CONFIG.things)


def by_name(metrics: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in metrics.to_pylist()}


def test_both_ways_of_asking_are_scored_with_their_difference() -> None:
    found = by_name(answer_metrics(score_answers(questions(), answers(20), answers(30), CONFIG), BOOTSTRAP, 1))
    assert found["accuracy_direct"]["value"] == 0.5 and found["accuracy_described"]["value"] == 0.75
    gain = found["gain_of_describing"]
    assert gain["value"] == pytest.approx(0.25) and 0 < gain["low"] < 0.25 < gain["high"]
    assert found["read_direct"]["value"] == 0.5 and all(row["split"] == "test" for row in found.values())
    with pytest.raises(ValueError, match="is not row"):
        score_answers(questions(), answers(1), answers(1).slice(1), CONFIG)


def test_right_wrong_and_absent_are_counted_in_descriptions() -> None:
    table = checked(["A red boat, left.", "A blue boat and a dog, left of it."])
    first, second = table.to_pylist()[:2]
    assert [(each["words"], each["right"]) for each in first["statements"]] == [("red", True), ("left", True)]
    assert [(each["words"], each["right"]) for each in second["statements"]] == [("blue", False), ("left", True)]
    assert (first["absent"], second["absent"]) == (["boat"], ["dog"])  # image 0 shows a tree, image 1 a boat
    assert (first["words"], first["checked_words"]) == (4, 2)
    found = by_name(description_metrics(table, BOOTSTRAP, 1))
    assert found["wrong_statements"]["value"] == pytest.approx(1 / 4)
    assert found["statements"]["value"] == 2 and found["absent_things"]["value"] == 1
    assert found["checked_words"]["value"] == pytest.approx(4 / (4 + 9))
    assert shares_by_topic(table) == {"colour": (20, 40), "place": (0, 40)}


def test_what_is_not_known_has_no_figure() -> None:
    table = checked(["A red boat."], known=False)
    assert set(table["statements"].to_pylist()) == set(table["absent"].to_pylist()) == {None}
    assert set(by_name(description_metrics(table, BOOTSTRAP, 1))) == {"words"}
    model = Model("m", score_answers(questions(), answers(9), answers(9), CONFIG), table)
    found = differences([(model, model)], BOOTSTRAP, 1)
    assert found["metric"].to_pylist() == ["accuracy_direct", "accuracy_described"]


def test_no_description_that_says_anything_known_has_an_undefined_share() -> None:
    found = by_name(description_metrics(checked(["Nothing."]), BOOTSTRAP, 1))
    assert np.isnan(found["wrong_statements"]["value"]) and found["statements"]["value"] == 0


def test_a_model_that_speaks_of_easier_topics_gains_by_the_share_and_not_in_the_topics_of_both() -> None:
    """The earlier model is wrong in half of its colours; the later one too, and is always right about places."""
    predictions = score_answers(questions(), answers(20), answers(20), CONFIG)
    earlier = Model("earlier", predictions, checked(["A blue boat.", "A red boat."]))
    later = Model("later", predictions, checked(["A blue boat, left.", "A red boat, left."]))
    found = {row["metric"]: row for row in differences([(earlier, later)], BOOTSTRAP, 1).to_pylist()}
    assert found["wrong_statements"]["value"] == pytest.approx(-0.25)
    assert found["wrong_statements"]["change"] == "lowered"
    assert found["wrong_statements_same_topics"]["value"] == 0
    assert found["wrong_statements_same_topics"]["change"] == "no difference shown"


def test_differences_are_of_the_later_model_and_say_raised_or_lowered() -> None:
    models = [
        Model(name, score_answers(questions(), answers(10), answers(right), CONFIG), checked([text]))
        for name, right, text in (("a", 10, "A blue boat and a dog."), ("b", 30, "A red tree."))
    ]
    found = {row["metric"]: row for row in differences([(models[0], models[1])], BOOTSTRAP, 1).to_pylist()}
    assert found["accuracy_described"]["value"] == pytest.approx(0.5)
    assert found["accuracy_described"]["change"] == "raised"
    assert found["accuracy_direct"]["change"] == "no difference shown"
    assert found["wrong_statements"]["value"] == -1 and found["absent_things"]["change"] == "lowered"
