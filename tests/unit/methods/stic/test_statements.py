"""Statements of a description are found and judged by what the table knows of the image."""

from pipeline_lib.methods.stic.statements import count_words, find_statements, named_things

TOPICS = [
    {"topic": "colour", "right": ["red"], "wrong": ["blue", "grey"]},
    {"topic": "fading", "right": ["grey tones"], "wrong": ["rich colours"]},
    {"topic": "thing", "right": [], "wrong": ["a dog"]},
]


def found(text: str) -> list[tuple[str, bool]]:
    return [(stated.words, stated.right) for stated in find_statements(text, TOPICS)]


def test_right_and_wrong_words_are_found_in_order_once_each_whatever_their_capitals() -> None:
    assert found("Red. A blue boat, a red boat and a dog.") == [("red", True), ("blue", False), ("a dog", False)]


def test_the_longest_words_are_found_and_parts_of_words_are_not() -> None:
    assert found("It has grey tones.") == [("grey tones", True)]
    assert found("It is grey.") == [("grey", False)]
    assert found("A bluebird is bored; a dogma.") == []


def test_words_of_two_topics_count_as_right_where_they_are_right_in_one() -> None:
    both = [{"topic": "a", "right": [], "wrong": ["fine"]}, {"topic": "b", "right": ["fine"], "wrong": []}]
    assert [(stated.topic, stated.right) for stated in find_statements("fine", both)] == [("b", True)]
    assert find_statements("fine", []) == []


def test_things_are_named_in_singular_and_plural() -> None:
    assert named_things("Two Boats, a tree and boats; no treehouse.", ["tree", "boat", "dog"]) == ["boat", "tree"]
    assert named_things("Nothing.", []) == []


def test_words_are_counted() -> None:
    assert count_words("It has 2 blue-green boats.") == 6
