"""Check a description against what is known of its image: right and wrong statements, and things that are not there.

A table of questions may say of an image, by topic, which words are right and which are wrong (`questions`). A statement
is an occurrence of such words in the description. Longer ones are found first, so `pale grey tones` is not `grey`.
Other words say nothing that can be checked, and count for nothing; `checked_words` tells how many they are.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple


class Stated(NamedTuple):
    """Words of a description that are known to be right or wrong."""

    topic: str
    words: str
    right: bool


def find_statements(description: str, topics: Sequence[Mapping[str, Any]]) -> list[Stated]:
    """The statements of a description, in their order, each once; `topics` have `topic`, `right` and `wrong`.

    Capitals do not matter. Words that are right in one topic and wrong in another count as right.
    """
    known: dict[str, Stated] = {}
    for right in (False, True):
        for topic in topics:
            for words in topic["right" if right else "wrong"]:
                known[words.lower()] = Stated(topic["topic"], words, right)
    found = [known[words] for words in _occurrences(description, tuple(known))]
    return list(dict.fromkeys(found))


def named_things(description: str, things: Iterable[str]) -> list[str]:
    """The things that a description names, each once; a plural in -s names it too."""
    forms = {form: thing for thing in things for form in (f"{thing.lower()}s", thing.lower())}
    return list(dict.fromkeys(forms[words] for words in _occurrences(description, tuple(forms))))


def count_words(text: str) -> int:
    """The number of words of a text."""
    return len(re.findall(r"\w+", text))


def _occurrences(text: str, words: tuple[str, ...]) -> list[str]:
    pattern = _pattern(tuple(sorted(words, key=lambda each: (-len(each), each))))
    return pattern.findall(text.lower()) if pattern else []


@lru_cache(maxsize=4096)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    if not words:
        return None
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")
