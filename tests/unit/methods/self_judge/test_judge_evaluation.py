"""The figures of a judge, on verdicts whose figures are known."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_judge.evaluation import calibration_error, judgement_metrics
from pipeline_lib.methods.self_judge.tables import JUDGEMENTS

#  verdict with the better answer as A, as B; probabilities of the better answer; better and worse text; dimension
ROWS = [
    ("A", "B", 0.9, 0.7, "long one", "one", "x"),
    ("A", "A", 0.8, 0.2, "long one", "one", "x"),
    ("B", "A", 0.1, 0.3, "one", "long one", "y"),
    ("A", None, 0.9, None, "same", "sane", "y"),
]


def _table() -> pa.Table:
    rows = [
        {
            "image": f"{at}.jpg",
            "image_sha256": "s",
            "pair_id": str(at),
            "group": str(at),
            "dimension": dimension,
            "question": "?",
            "better": better,
            "worse": worse,
            "text_first": "",
            "text_second": "",
            "verdict_first": first,
            "verdict_second": second,
            "p_better_first": p_first,
            "p_better_second": p_second,
        }
        for at, (first, second, p_first, p_second, better, worse, dimension) in enumerate(ROWS)
    ]
    return pa.Table.from_pylist(rows, schema=JUDGEMENTS.schema)


def test_figures_of_known_verdicts() -> None:
    found = {row["metric"]: row for row in judgement_metrics(_table(), "test", Bootstrap(), 0).to_pylist()}
    values = {name: row["value"] for name, row in found.items()}
    assert values["accuracy"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)  # a missing verdict is wrong
    assert values["both_orders"] == 0.25
    assert values["consistency"] == 0.5  # the first and the third name one answer twice
    assert values["parse_rate"] == pytest.approx(7 / 8)
    assert values["says_a"] == pytest.approx(5 / 7)
    # Verdicts for the longer: 1, .5, 1; the longer is the better one in 1, 1, 0.
    assert values["prefers_longer"] == pytest.approx((0 - 0.5 + 1) / 3) and found["prefers_longer"]["rows"] == 3
    assert values["accuracy: x"] == 0.75 and values["accuracy: y"] == 0.25
    # Confidence .8 right, .5 (p .5 is no win) wrong, .8 wrong; the fourth has none.
    assert found["calibration_error"]["rows"] == 3
    assert values["calibration_error"] == pytest.approx((abs(1 - 0.8 + 0 - 0.8) + 0.5) / 3)
    assert found["accuracy"]["low"] < values["accuracy"] < found["accuracy"]["high"]


def test_a_calibrated_judge_has_no_error() -> None:
    p = np.array([0.75] * 3 + [0.25])
    assert calibration_error(p, np.ones((1, 4)))[0] == pytest.approx(0)
    assert calibration_error(p, np.array([[0.0, 0, 0, 1]]))[0] == pytest.approx(0.75)
