import pytest

from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import SRCC_STATED, decimal, estimate_text, percent


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.652, 3, ".652"),
        (-0.1374, 3, "-.137"),
        (1.0, 2, "1.00"),
        (0.9996, 3, "1.000"),
        (3.567, 2, "3.57"),
        (-0.0001, 2, ".00"),
        (57.31, 2, "57.3"),
        (-14.99, 3, "-14.99"),
        (float("nan"), 3, "–"),
        (float("inf"), 3, "–"),
    ],
)
def test_decimal(value: float, decimals: int, text: str) -> None:
    assert decimal(value, decimals) == text


def test_estimates_are_compact_and_survive_nan() -> None:
    assert estimate_text(SRCC_STATED, Estimate(0.652, 0.581, 0.709, 60)) == ".652 [.58 .71]"
    assert estimate_text(SRCC_STATED, Estimate(*[float("nan")] * 3, 0)) == "–"


def test_percent() -> None:
    assert percent(0.95) == "95 %"
    assert percent(0.0333333) == "3.33 %"
