"""Answers are scored by the rule of the recipe; what cannot be read is wrong and counted, never guessed."""

import pytest

from pipeline_lib.methods.stic.recipe import Questions
from pipeline_lib.methods.stic.scoring import Scored, score

CHOICES = ["a house", "the tree", "boats"]


def scored(answer: str, reference: list[str], choices: list[str] | None = None, **fields: object) -> Scored:
    return score(answer, reference, choices or [], Questions.model_validate({"table": "t.jsonl", **fields}))


@pytest.mark.parametrize(
    ("answer", "right"),
    [("red", 1), ("Red.", 1), ("the  red", 1), ("dark red", 0), ("redder", 0), ("crimson", 1), ("", 0)],
)
def test_exact_ignores_case_articles_and_punctuation(answer: str, right: float) -> None:
    assert scored(answer, ["red", "Crimson"]) == Scored(right, bool(answer))


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("B. the tree", "B"), ("The answer is B", "B"), ("Answer: (B)", "B"), ("tree", "B"),
        ("Because it is tall", None), ("D", None), ("", None), ("A house and boats", None),
    ],
)  # fmt: skip
def test_choice_reads_a_letter_or_the_text_of_one_choice(answer: str, letter: str | None) -> None:
    assert scored(answer, ["B"], CHOICES, scoring="choice") == Scored(float(letter == "B"), letter is not None)


def test_choice_without_choices_reads_any_letter() -> None:
    assert scored("C", ["C"], scoring="choice") == Scored(1, True)
    assert scored("C", ["C"], ["A", "B", "C"], scoring="choice") == Scored(1, True)


@pytest.mark.parametrize(
    ("answer", "reference", "right", "read"),
    [
        ("42", "40", 1, True), ("42.1", "40", 0, True), ("It is 1,040.", "1000", 1, True), ("12%", "12", 1, True),
        ("from 3 to 5", "5", 1, True), ("-5", "5", 0, True), ("many", "5", 0, False), ("0", "0", 1, True),
        ("7", "seven", 0, True),
    ],
)  # fmt: skip
def test_numeric_takes_the_last_number_within_the_tolerance(
    answer: str, reference: str, right: float, read: bool
) -> None:
    assert scored(answer, [reference], scoring="numeric", tolerance=0.05) == Scored(right, read)


def test_vqa_counts_thirds_of_the_people_who_agree() -> None:
    people = ["red", "red", "blue", "green", "green", "green", "green", "a", "b", "c"]
    rights = [scored(answer, people, scoring="vqa").right for answer in ("blue", "red", "green", "white")]
    assert rights == pytest.approx([1 / 3, 2 / 3, 1, 0])
