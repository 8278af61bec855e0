"""Differences of two models: paired on the same items, unpaired on others, and refused where they mean nothing."""

from typing import Any

import numpy as np
import pytest

from pipeline_lib.metrics.figures import mae, mean, srcc
from pipeline_lib.metrics.intervals import change, paired_difference
from pipeline_lib.use.measured import Difference, Figure, Measured, Settings, difference, estimates, numbered, shared

SETTINGS = Settings(400, 0.95, 3)


def measured(names: range, noise: float, seed: int, *, shift: float = 0, unit: str = "", judge: str = "") -> Measured:
    """Predictions of images whose truth follows from their names; a model errs by `noise`."""
    true = np.array([float(np.random.default_rng(name).normal()) for name in names]) + shift
    predicted = true + np.random.default_rng(seed).normal(0, noise, len(true))
    return Measured(
        "images",
        "test",
        numbered([f"image {name}" for name in names]),
        tuple(true),
        np.array([f"group {name}" for name in names]),
        (
            Figure("srcc", "SRCC", srcc, (true, predicted)),
            Figure("mae", "MAE", mae, (true, predicted), unit=unit),
            Figure("cons", "Cons", mean, (predicted,), measured_with=judge),
        ),
    )


def shuffled(found: Measured, seed: int) -> Measured:
    """The same items in another order, as another file has them."""
    order = np.random.default_rng(seed).permutation(len(found.ids))
    return found._replace(
        ids=tuple(found.ids[at] for at in order),
        truth=tuple(found.truth[at] for at in order),
        groups=found.groups[order],
        figures=tuple(
            figure._replace(columns=tuple(column[order] for column in figure.columns)) for figure in found.figures
        ),
    )


def test_on_the_same_images_it_is_the_paired_difference_in_whatever_order_they_are() -> None:
    one, other = measured(range(60), 1.0, 1), measured(range(60), 0.3, 2)
    (true, before), (_, after) = (side.figures[0].columns for side in (one, other))
    expected = paired_difference(srcc, true, before, after, groups=one.groups, **SETTINGS._asdict())
    found = difference(one, shuffled(other, 5), "srcc", SETTINGS)
    assert (found.how, found.why) == ("paired", "")
    assert found.estimate == pytest.approx(expected)
    assert change(found.estimate) == "raised"


def test_on_other_images_it_is_unpaired_wider_and_says_so() -> None:
    one = measured(range(60), 0.5, 1)
    same, others = measured(range(60), 0.5, 1, shift=0), measured(range(100, 145), 0.5, 2)
    unpaired = difference(one, others, "srcc", SETTINGS)
    assert unpaired.how == "unpaired"
    assert "none of the images are the same" in unpaired.why
    own = [estimates(side, SETTINGS)["srcc"] for side in (one, others)]
    assert unpaired.estimate.value == pytest.approx(own[1].value - own[0].value)
    widths = [estimate.high - estimate.low for estimate in own]
    assert unpaired.estimate.high - unpaired.estimate.low == pytest.approx(np.hypot(*widths), rel=0.35)
    assert difference(one, same, "srcc", SETTINGS).estimate[:3] == (0, 0, 0)


@pytest.mark.parametrize(("start", "how", "rows"), [(30, "paired", 30), (55, "unpaired", 120)])
def test_partly_shared_images_are_paired_if_they_are_enough(start: int, how: str, rows: int) -> None:
    found = difference(measured(range(60), 1, 1), measured(range(start, start + 60), 1, 2), "srcc", SETTINGS)
    assert (found.how, found.estimate.rows) == (how, rows)
    assert str(60 - start) in found.why


@pytest.mark.parametrize(
    ("other", "figure", "why"),
    [
        ({"shift": 1.0}, "srcc", "60 of 60 shared images are measured against another truth"),
        ({"judge": "another"}, "cons", "another"),
        ({}, "accuracy", "only one of them"),
    ],
)
def test_what_means_nothing_is_not_compared(other: dict[str, Any], figure: str, why: str) -> None:
    found = difference(measured(range(60), 1, 1), measured(range(60), 1, 2, **other), figure, SETTINGS)
    assert_refused(found, why)


def test_a_unit_matters_only_where_the_images_differ() -> None:
    one = measured(range(60), 1, 1, unit="stars")
    assert difference(one, measured(range(60), 1, 2, unit="points"), "mae", SETTINGS).how == "paired"
    assert_refused(difference(one, measured(range(100, 160), 1, 2, unit="points"), "mae", SETTINGS), "stars")


def test_two_images_of_one_content_are_two_items() -> None:
    assert numbered(["a", "b", "a"]) == ("a 1", "b 1", "a 2")
    one = measured(range(3), 1, 1)
    twice = one._replace(ids=numbered(["image 0", "image 0", "image 1"]))
    assert [len(rows) for rows in shared(one, twice)] == [2, 2]


def assert_refused(found: Difference, why: str) -> None:
    assert found.how == "not compared"
    assert why in found.why
    assert np.isnan(found.estimate.value)
