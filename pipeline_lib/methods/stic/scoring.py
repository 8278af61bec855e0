"""How far an answer is right, by the rules of the benchmarks that the paper measures on.

An answer without the form that is scored (a letter, a number) is wrong and is counted as not read; nothing is guessed.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipeline_lib.methods.stic.recipe import Scoring

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*|[-+]?\.\d+")
_PEOPLE = 3  # who say the same make an answer of `vqa` wholly right


class Scored(NamedTuple):
    """How far an answer is right, 0..1, and whether it has the form that is scored."""

    right: float
    read: bool


def score(answer: str, reference: Sequence[str], choices: Sequence[str], config: Scoring) -> Scored:
    """Compare an answer with its reference answers by the rule of the recipe (`questions.scoring`)."""
    if config.scoring == "choice":
        letter = read_letter(answer, choices)
        return Scored(float(letter in reference), letter is not None)
    if config.scoring == "numeric":
        return _score_number(answer, reference, config.tolerance)
    said = normalized(answer)
    same = sum(said == normalized(text) for text in reference)
    return Scored(min(same / _PEOPLE, 1.0) if config.scoring == "vqa" else float(same > 0), bool(said))


def read_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of an answer: `B`, `(B)`, `B.`, `Answer: B`, or the text of exactly one choice; else None.

    Where there are fewer than two choices or these are letters themselves, any letter of A to Z counts.
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    texts = [choice for choice in choices if len(choice) > 1]
    allowed = letters[: len(texts)] if len(texts) > 1 else letters
    text = answer.strip()
    if alone := re.match(rf"(?:\(([{allowed}])\)|([{allowed}])(?:[.:,)]|$))", text):
        return alone[1] or alone[2]
    if named := re.findall(rf"(?i:answer(?: is)?|option)\s*:?\s*\(?([{allowed}])\b", text):
        return str(named[-1])
    said = [letters[at] for at, choice in enumerate(texts) if normalized(choice) == normalized(text)]
    return said[0] if len(said) == 1 else None


def normalized(text: str) -> str:
    """A text without capitals, articles, punctuation at its ends and double blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower()).split()).strip(" .,;:!?\"'")


def _score_number(answer: str, reference: Sequence[str], tolerance: float) -> Scored:
    said = [number for text in _NUMBER.findall(answer) if (number := _number(text)) is not None]
    if not said:
        return Scored(0.0, False)
    wanted = [number for text in reference if (number := _number(text)) is not None]
    return Scored(float(any(abs(said[-1] - number) <= tolerance * abs(number) for number in wanted)), True)


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").strip().rstrip("%"))
    except ValueError:
        return None
