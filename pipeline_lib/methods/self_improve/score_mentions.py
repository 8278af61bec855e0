"""Find the scores that an explanation names as numbers.

A number in a text is often a count ("two people"), a place ("in the top 3") or a setting ("f/8"), so the words around a
number decide whether it is a score:

- as a share of the scale: "6/9", "six out of ten" (the 9 and the 10 are the scale, no score);
- behind a word for a score, with only small words between: "a score of 6", "rated about six", "Rating: 6";
- before such a word: "a 6 rating", "in the 4 to 5 range";
- behind an article, without a noun to count: "it earns a solid 6.", "a six, because ..";
- as a digit, not a number word, without a noun to count: "Overall 6.", "I would say 6, since ..".

Both ends of a range count ("4 to 5", "between 4 and 5"). What only names the scale ("from 0 to 9"), decimals, longer
numbers and list marks ("1.", "2)") do not. Words are English; in another language only digits are found.
"""

import itertools
import re
from typing import NamedTuple

_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+|[^\w\s]")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NUMBERS = {str(n): n for n in range(10)} | {word: n for n, word in enumerate(_WORDS)}
_SCALE_ENDS = {"9", "10", "nine", "ten"}
_SCALE = re.compile(r"(?<![\w.,])(?:0|1|zero|one)\s*(?:to|through|and|-|–|—)\s*(?:9|10|nine|ten)(?!\w|[.,]\d)")

_SCORE_WORDS = {
    *("score", "scores", "scored", "scoring", "rating", "ratings", "rate", "rates", "rated", "grade", "graded")
}
_BEHIND = {"score", "scores", "rating", "ratings", "grade", "range"}
_LITTLE = {
    *("of", "a", "an", "the", "this", "it", "is", "was", "be", "would", "to", "as", "at", "between", "only", "just"),
    *("around", "about", "approximately", "nearly", "image", "photo", "picture", "photograph"),
    *(":", "=", "(", '"', "'", "*", "-", "–"),
}
_ADJECTIVES = {"solid", "strong", "mere", "modest", "moderate", "low", "high", "clear", "perfect", "weak"}
_NAMING = {"figure", "fig", "photo", "image", "picture", "number", "no", "step", "top", "part", "page", "version"}
_STOPS = {
    *("because", "since", "for", "due", "as", "given", "rather", "but", "which", "overall", "instead", "despite"),
    *(".", ",", ";", "!", "?", ")", '"', "'", "*", "—"),
}
_COMPARED = {"lower", "higher", "below", "above", "less", "more", "off", "short", "of"}


class _Span(NamedTuple):
    """Token positions of a number or of a range of two, end excluded."""

    start: int
    end: int


def mentioned_scores(explanation: str) -> set[int]:
    """The scores 0..9 that the text names as a score; see the module's rules."""
    tokens = _TOKEN.findall(_SCALE.sub(" scale ", explanation.lower()))
    return {
        _NUMBERS[token]
        for span in _spans(tokens)
        if _is_score(tokens, span)
        for token in tokens[span.start : span.end]
        if token in _NUMBERS
    }


def _spans(tokens: list[str]) -> list[_Span]:
    spans, at = [], 0
    while at < len(tokens):
        if tokens[at] not in _NUMBERS:
            at += 1
            continue
        joins = {"to", "or", "-", "–"} | ({"and"} if tokens[at - 1 : at] == ["between"] else set())
        is_range = len(tokens) > at + 2 and tokens[at + 1] in joins and tokens[at + 2] in _NUMBERS
        end = at + 3 if is_range else at + 1
        spans.append(_Span(at, end))
        at = end
    return spans


def _is_score(tokens: list[str], span: _Span) -> bool:
    before, after = tokens[: span.start][::-1], tokens[span.end :]  # both read away from the number
    last, following = (before[0] if before else ""), (after[0] if after else "")
    if last == "/" or before[:2] == ["of", "out"]:
        return False  # the scale, or a setting such as f/8
    if after[:1] == ["/"]:
        return after[1:2] != [] and after[1] in _SCALE_ENDS
    rest = after[1:] if following in ("point", "points") else after
    if rest[:2] == ["out", "of"]:
        return rest[2:3] != [] and rest[2] in _SCALE_ENDS
    if following in ("point", "points") and after[1:2] and after[1] in _COMPARED:
        return False  # "two points lower", "three points of interest"
    if following == "of":
        return False  # "one of the best"
    if _stands_behind_a_score_word(before):
        return True
    digit = tokens[span.start].isdigit()
    article = last in ("a", "an", "the") or (last in _ADJECTIVES and before[1:2] in (["a"], ["an"]))
    if following in _BEHIND:
        return digit or article
    counts_nothing = following == "" or following in _STOPS
    if article and last != "the":
        return counts_nothing
    words_before = last.isalpha() and last not in _NAMING
    closed = following != ")" or last == "("
    return digit and counts_nothing and closed and (words_before or last == "(" or (last == "," and following == "."))


def _stands_behind_a_score_word(before: list[str]) -> bool:
    if before[:1] == ["the"]:
        return False  # "a low score: the two people are blurred"
    return next(itertools.dropwhile(lambda token: token in _LITTLE | _ADJECTIVES, before), "") in _SCORE_WORDS
