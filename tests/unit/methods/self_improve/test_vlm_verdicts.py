"""A judge that sees the image: what explanations are compared with, grades, and which judge is fooled."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.tables import VLM_VERDICTS
from pipeline_lib.methods.self_improve.vlm_verdicts import FAR, comparisons, is_fooled, vlm_judge_metrics

CRITERION = load_prompt("aesthetics").criterion


class ByLength:
    """Reads a text's number of words as its score."""

    def recover(self, texts: list[str]) -> np.ndarray:
        return np.array([float(len(text.split())) for text in texts])


JUDGE: Any = ByLength()


def _explained(scores: list[int]) -> pa.Table:
    rows = [
        {
            "image": f"{at}.png",
            "image_sha256": "s",
            "split": "test",
            "group": f"{at}.png",
            "stated_score": score,
            "explanation": f"text {at}" + " word" * score,
        }
        for at, score in enumerate(scores)
    ]
    return pa.Table.from_pylist([*rows, rows[0] | {"image": "none.png", "explanation": None, "stated_score": None}])


def _images(count: int) -> pa.Table:
    names = [f"{at}.png" for at in range(count)]
    return pa.table({"image": names, "width_px": [8] * count, "height_px": [8] * count})


def test_each_explanation_meets_one_of_its_score_one_of_a_far_score_and_a_fixed_text() -> None:
    scores = [1, 1, 1, 7, 7]
    pool = ["a b", "a b c d e f g"]
    rows = comparisons(_explained(scores), _images(5), JUDGE, CRITERION, pool, 0).to_pylist()
    texts = {f"text {at}" + " word" * score: (f"{at}.png", score) for at, score in enumerate(scores)}
    assert len(rows) == 15 and {row["image"] for row in rows} == {f"{at}.png" for at in range(5)}
    for row in rows:
        if row["aspect"] == "useful":
            assert row["other"] == pool[row["stated_score"] == 7]
            continue
        image, score = texts[row["other"]]
        assert image != row["image"]
        assert (
            score == row["stated_score"]
            if row["aspect"] == "true_of_image"
            else abs(score - row["stated_score"]) >= FAR
        )
    assert any("7" in row["question"] for row in rows if row["aspect"] == "fits_score" and row["stated_score"] == 7)


def test_an_explanation_without_a_partner_is_not_compared() -> None:
    rows = comparisons(_explained([1, 2]), _images(2), JUDGE, CRITERION, [], 0).to_pylist()
    assert rows == []  # no other of its score, none far away, no pool of fixed texts
    same = _explained([1, 1]).to_pylist()
    same[1]["explanation"] = same[0]["explanation"]
    assert comparisons(pa.Table.from_pylist(same), _images(2), JUDGE, CRITERION, [], 0).num_rows == 0


def _verdicts(grades: dict[str, list[int | None]]) -> pa.Table:
    rows = [
        {
            "image": f"{at}.png",
            "image_sha256": "s",
            "group": f"{at}.png",
            "stated_score": 3,
            "aspect": aspect,
            "question": "?",
            "explanation": "one two three",
            "other": "one" if at % 2 else "three two one",
            "reason": "",
            "grade": grade,
        }
        for aspect, of in grades.items()
        for at, grade in enumerate(of)
    ]
    return pa.Table.from_pylist(rows, schema=VLM_VERDICTS.schema)


def test_grades_are_averaged_and_a_judge_at_chance_is_named_as_fooled() -> None:
    table = _verdicts({"true_of_image": [4] * 19 + [None], "fits_score": [2] * 20, "useful": [0, 4] * 10})
    metrics = vlm_judge_metrics(table, JUDGE, Bootstrap(), 0)
    found = {row["metric"]: row["value"] for row in metrics.to_pylist()}
    assert found["vlm_true_of_image"] == 4 and found["above_shuffled"] == 1 and found["vlm_fits_score"] == 2
    assert found["above_fixed"] == 0.5 and found["vlm_unparsable"] == pytest.approx(1 / 60)
    # The round-trip judge reads 3 from the explanation: above the other text of one word, equal to that of three.
    assert found["round_trip_above_fixed"] == pytest.approx(0.75)
    assert is_fooled(metrics) == ["ten fixed texts"]
    lost = vlm_judge_metrics(
        _verdicts({"true_of_image": [None], "fits_score": [], "useful": []}), JUDGE, Bootstrap(), 0
    )
    assert len(is_fooled(lost)) == 2  # nothing was shown
