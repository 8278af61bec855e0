"""The form of an answer: a score, then the explanation that justifies it (section 3.1, predict then explain)."""

import re
from typing import NamedTuple

EXPLAIN_TAG = "#Explain:"

_ANSWER = re.compile(r"\s*#Score:\s*([0-9])\s+#Explain:\s*(\S.*)", re.DOTALL)


class Answer(NamedTuple):
    """A parsed answer."""

    score: int
    explanation: str


def answer_prefix(score: int) -> str:
    """The beginning of an answer with an injected score, up to where the explanation starts."""
    return f"#Score: {score}\n\n#Explain:"


def parse_answer(text: str) -> Answer | None:
    """The score 0..9 and the explanation, or None when the text does not have the required form.

    A missing tag, a score that is not a single digit, an empty explanation or a second answer gives None; nothing is
    guessed.
    """
    match = _ANSWER.fullmatch(text)
    if match is None or "#Score:" in match[2] or "#Explain:" in match[2]:
        return None
    return Answer(int(match[1]), match[2].strip())
