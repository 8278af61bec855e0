"""The reward of a rating: fidelity to the votes under Thurstone's model, and what its traps are."""

import math
from statistics import NormalDist, fmean, variance

import pytest

from pipeline_lib.methods.evo_quality.answers import read_index, read_rating
from pipeline_lib.methods.evo_quality.reward import fidelity, own_mean

BETTER = ["\\boxed{4.00}", "\\boxed{4.50}", "\\boxed{3.50}"]
WORSE = ["\\boxed{2.00}", "\\boxed{3.00}", "\\boxed{1.00}"]


def expected(rating: float, other: list[float], scale: float, wanted: float) -> float:
    """The paper's formulas, written again with the standard library."""
    p = NormalDist().cdf((rating - fmean(other)) / scale)
    return math.sqrt(wanted * p) + math.sqrt((1 - wanted) * (1 - p))


@pytest.mark.parametrize("preference", [1.0, 0.0, 0.5, 0.25])
def test_it_is_the_papers_formula(preference: float) -> None:
    found = fidelity({"preference": preference}, [BETTER, WORSE], gamma=0.1, format_weight=0.5)
    first, second = [4.0, 4.5, 3.5], [2.0, 3.0, 1.0]
    scale = math.sqrt(variance(first) + variance(second) + 0.1)
    assert found.parts["ranking"][0] == pytest.approx([expected(q, second, scale, preference) for q in first])
    assert found.parts["ranking"][1] == pytest.approx([expected(q, first, scale, 1 - preference) for q in second])
    assert found.parts["format"] == [[0.5] * 3] * 2 and found.parsed == [[True] * 3] * 2


def test_a_higher_rating_of_the_better_image_earns_more_and_of_the_worse_less() -> None:
    better, worse = fidelity({"preference": 1.0}, [BETTER, WORSE], gamma=1e-6, format_weight=0).parts["ranking"]
    assert better[2] < better[0] < better[1] and worse[1] < worse[0] < worse[2]


def test_ratings_that_say_nothing_earn_the_root_of_a_half() -> None:
    same = ["\\boxed{3.00}"] * 3
    assert (
        fidelity({"preference": 1.0}, [same, same], gamma=1e-6, format_weight=0).parts["ranking"]
        == [pytest.approx([math.sqrt(0.5)] * 3)] * 2
    )


def test_what_cannot_be_read_is_left_out_of_mean_and_variance_and_earns_nothing() -> None:
    bad = ["\\boxed{9.00}", "a good picture", "\\boxed{0.99}", "\\boxed{}"]
    with_bad = fidelity({"preference": 1.0}, [BETTER + bad, WORSE], gamma=0.1, format_weight=1)
    without = fidelity({"preference": 1.0}, [BETTER, WORSE], gamma=0.1, format_weight=1)
    assert with_bad.parts["ranking"][0] == [*without.parts["ranking"][0], 0, 0, 0, 0]
    assert with_bad.parts["ranking"][1] == without.parts["ranking"][1]
    assert with_bad.parts["format"][0] == [1, 1, 1, 0, 0, 0, 0]
    assert with_bad.parsed[0] == [True] * 3 + [False] * 4


def test_an_image_without_a_rating_gives_no_fidelity_to_either() -> None:
    found = fidelity({"preference": 1.0}, [BETTER, ["no"] * 3], gamma=0.1, format_weight=1)
    assert found.parts["ranking"] == [[0, 0, 0], [0, 0, 0]] and found.parts["format"] == [[1, 1, 1], [0, 0, 0]]


def test_the_ablation_draws_each_rating_to_its_own_mean() -> None:
    found = own_mean({"targets": [4.0, None]}, [[*BETTER, "no"], WORSE], format_weight=1)
    assert found.parts["ranking"] == [pytest.approx([1, 1 - 0.125, 1 - 0.125, 0]), [0, 0, 0]]
    assert found.parsed[0] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("\\boxed{3.25}", 3.25),
        ("<think>It was \\boxed{1.00} at first.</think> \\boxed{ 5 }", 5.0),
        ("\\boxed{5.01}", None),
        ("\\boxed{.5}", None),
        ("\\boxed{3,5}", None),
        ("\\boxed{nan}", None),
        ("\\boxed{-3}", None),
        ("\\boxed{1e0}", None),
        ("3.25", None),
        ("\\boxed{3.25", None),
    ],
)
def test_a_rating_is_read_strictly(text: str, rating: float | None) -> None:
    assert read_rating(text) == rating


@pytest.mark.parametrize(
    ("text", "index"),
    [("\\boxed{0}", 0), ("so \\boxed{1}.", 1), ("\\boxed{2}", None), ("0", None), ("\\boxed{01}", None)],
)
def test_an_index_is_read_strictly(text: str, index: int | None) -> None:
    assert read_index(text) == index


def test_the_reward_is_the_mean_over_partners() -> None:
    """The paper's r_k(i), written again; a partner has its pair with i alone."""
    center, partners, labels = [4.0, 4.5, 3.5], ([2.0, 3.0, 1.0], [4.5, 4.9, 4.0], [3.0, 3.2, 3.1]), [1.0, 0.0, 0.5]
    texts = [[f"\\boxed{{{rating}}}" for rating in of_image] for of_image in (center, *partners)]
    found = fidelity({"preferences": labels}, texts, gamma=0.1, format_weight=1, partners=3).parts["ranking"]
    scales = [math.sqrt(variance(center) + variance(other) + 0.1) for other in partners]
    pairs = list(zip(partners, scales, labels, strict=True))
    assert found[0] == pytest.approx([fmean(expected(q, *pair) for pair in pairs) for q in center])
    for rewards, (ratings, scale, label) in zip(found[1:], pairs, strict=True):
        assert rewards == pytest.approx([expected(q, center, scale, 1 - label) for q in ratings])
    one = fidelity({"preferences": labels[:1]}, texts[:2], gamma=0.1, format_weight=1, partners=3)
    assert one == fidelity({"preference": labels[0]}, texts[:2], gamma=0.1, format_weight=1)


def test_a_partner_without_a_rating_is_in_no_mean() -> None:
    texts = [BETTER, WORSE, ["no"] * 3]
    found = fidelity({"preferences": [1.0, 0.0]}, texts, gamma=0.1, format_weight=0, partners=2).parts["ranking"]
    one = fidelity({"preference": 1.0}, texts[:2], gamma=0.1, format_weight=0).parts["ranking"]
    assert found == [*one, [0.0] * 3]
