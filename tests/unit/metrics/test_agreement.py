import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from pipeline_lib.errors import DataError
from pipeline_lib.metrics.agreement import Agreement, judge_agreement


def verdicts(grades: list[int | None], images: list[str] | None = None, split: str = "test") -> pa.Table:
    names = images or [f"{n}.png" for n in range(len(grades))]
    return pa.table(
        {
            "image": pa.array(names, pa.string()),
            "split": pa.array([split] * len(grades), pa.string()),
            "consistency": pa.array(grades, pa.int8()),
        }
    )


def agree(first: pa.Table, second: pa.Table, samples: int = 500) -> Agreement:
    return judge_agreement(first, second, split="test", samples=samples, confidence=0.95, seed=3)


def drawn(n: int = 300) -> tuple[list[int], list[int]]:
    rng = np.random.default_rng(0)
    first = rng.integers(5, size=n)
    second = np.clip(first + rng.integers(-2, 2, size=n), 0, 4)
    return first.tolist(), second.tolist()


def test_figures_are_those_of_scipy_and_sklearn_and_ungraded_rows_do_not_count() -> None:
    first, second = drawn()
    found = agree(verdicts([*first, None, 3, None]), verdicts([*second, 2, None, None]))
    assert found.rows == found.kappa.rows == 300
    assert found.spearman.value == pytest.approx(stats.spearmanr(first, second).statistic)
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second, weights="quadratic"))
    assert found.same == np.mean(np.equal(first, second))
    assert found.within_one == np.mean(np.abs(np.subtract(first, second)) <= 1)
    assert found.same < found.within_one < 1


def test_intervals_are_those_of_resampled_rows() -> None:
    first, second = map(np.array, drawn())
    found = agree(verdicts(first.tolist()), verdicts(second.tolist()), samples=2000)
    rng = np.random.default_rng(1)
    spread = []
    for _ in range(300):
        at = rng.integers(300, size=300)
        spread.append((stats.spearmanr(first[at], second[at]).statistic,
                       cohen_kappa_score(first[at], second[at], weights="quadratic")))  # fmt: skip
    for estimate, values in zip((found.spearman, found.kappa), np.array(spread).T, strict=True):
        np.testing.assert_allclose((estimate.low, estimate.high), np.quantile(values, [0.025, 0.975]), atol=0.03)
    assert found == agree(verdicts(first.tolist()), verdicts(second.tolist()), samples=2000)


def test_several_explanations_of_an_image_are_resampled_together() -> None:
    first, second = drawn(60)
    images = [f"{n}.png" for n in range(60)]
    once = agree(verdicts(first, images), verdicts(second, images))
    four_times = agree(verdicts(first * 4, images * 4), verdicts(second * 4, images * 4))
    assert four_times.rows == 240 and four_times.kappa.value == pytest.approx(once.kappa.value)
    assert four_times.kappa.high - four_times.kappa.low == pytest.approx(once.kappa.high - once.kappa.low)


@pytest.mark.parametrize(
    ("first", "second", "kappa"), [([2] * 9, [2] * 9, math.nan), ([2] * 9, [1, 2, 3] * 3, 0.0), ([], [], math.nan)]
)
def test_constant_grades_and_no_grades_give_nan_and_no_crash(
    first: list[int | None], second: list[int | None], kappa: float
) -> None:
    found = agree(verdicts(first), verdicts(second))
    assert found.rows == len(first)
    assert all(math.isnan(value) for value in found.spearman[:3])
    np.testing.assert_equal(found.kappa.value, kappa)


def test_tables_of_other_rows_are_refused_and_the_other_split_is_not_looked_at() -> None:
    with pytest.raises(DataError, match="same rows"):
        agree(verdicts([1, 2]), verdicts([1, 2], ["a", "b"]))
    both = pa.concat_tables([verdicts([1, 2, 3]), verdicts([4, 4, 4], split="val")])
    assert agree(both, pa.concat_tables([verdicts([1, 2, 3]), verdicts([0, 0, 0], split="val")])).same == 1.0
