"""What a run computes on its device, as a method counts it; imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, Literal, NamedTuple

SHARE_OF_LIMIT = 0.6
"""Length of an answer as a share of its limit in tokens: about 150 of 256."""

Tokens = Callable[[str], float]
"""Tokens of a prompt's text."""


class Stage(NamedTuple):
    """A kind of stage: so many rows, each a prompt with images and answers to it.

    `generate` writes the answers, `read` scores known ones, the others train on them.
    """

    name: str
    does: Literal["generate", "read", "dpo", "sft", "grpo"]
    rows: float  # over all its runs
    prompt: float  # tokens of text
    limit: float  # of an answer in tokens
    at_once: int  # rows in a pass; units for `grpo`
    length: float | None = None  # mean of an answer; None: `SHARE_OF_LIMIT`
    images: float = 1
    answers: float = 1
    rank: int = 0  # of the adapter
    passes: int = 1  # over the answers of a row, in an update of `grpo`
    unit: int = 1  # rows of a unit, which `grpo` samples together
    decode: bool = True  # whether answers are written token by token

    @property
    def tokens(self) -> float:
        """Mean length of an answer."""
        return SHARE_OF_LIMIT * self.limit if self.length is None else self.length


class Stages(NamedTuple):
    """A method's stages, and what its estimate leaves out."""

    stages: Sequence[Stage]
    without: Sequence[str] = ()


StagesOf = Callable[[Any, Mapping[str, Any], Tokens], Stages]
"""A recipe, the doctor's facts and a counter of tokens -> the stages that a run computes on the device."""


def passes_for(answers: int, at_once: int | None) -> int:
    """Passes of an update over the answers of an image."""
    return ceil(answers / (at_once or answers))
