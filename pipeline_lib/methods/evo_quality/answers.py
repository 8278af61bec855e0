"""Read an answer: the last `\\boxed{}` of the text, strictly. What cannot be read is counted, never guessed.

An exported model has a copy of this module, so it imports nothing of WhyScore.
"""

import re

_BOX = re.compile(r"\\boxed\{([^{}]*)\}")
_FLOAT = re.compile(r"[0-9]+(\.[0-9]+)?")

LOWEST, HIGHEST = 1.0, 5.0
"""The scale of a rating."""


def read_index(text: str) -> int | None:
    """0 (the first image is better) or 1 (the second); None for anything else."""
    boxed = _boxed(text)
    return int(boxed) if boxed in ("0", "1") else None


def read_rating(text: str) -> float | None:
    """A number of 1..5; None for anything else, out of range too: clamping would hide a broken format."""
    boxed = _boxed(text)
    if boxed is None or not _FLOAT.fullmatch(boxed):
        return None
    rating = float(boxed)
    return rating if LOWEST <= rating <= HIGHEST else None


def _boxed(text: str) -> str | None:
    found = _BOX.findall(text)
    return found[-1].strip() if found else None
