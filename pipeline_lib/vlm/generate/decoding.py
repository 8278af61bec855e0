"""Choose the next token: the most probable one, or one drawn with noise that depends on the answer's name.

The noise of a token is one number in [0, 1). It follows from the seed, the key of the row, the number of the answer and
the step, not from a place in a batch. So the sampled texts are the same in batches of any size, in any order, and in
a run that was killed and continued.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline_lib.vlm.generate.drawing import draw_tokens, uniforms

AnswerName = tuple[str, int]
"""The key of a row, and the number of an answer in it."""

Chooser = Callable[[Tensor, int], Tensor]
"""Logits (R, vocabulary) of R answers, and the step that they are of (from 0) -> the R next tokens."""


class Greedy(BaseModel):
    """Takes the most probable token in each step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(ge=1)


class Sampled(BaseModel):
    """Draws each token from softmax(logits / temperature), cut to its most probable tokens.

    The cut keeps the `top_k` most probable tokens (None: all), and of these the smallest set of most probable ones
    whose share of their probability reaches `top_p`; 1 keeps all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int


Decoding = Greedy | Sampled
"""How answers are decoded."""


def token_chooser(decoding: Decoding, names: Sequence[AnswerName], device: torch.device) -> Chooser:
    """How the R answers of these names choose their tokens."""
    if isinstance(decoding, Greedy):
        return lambda logits, step: logits.argmax(-1)
    temperature, top_p, top_k = decoding.temperature, decoding.top_p, decoding.top_k
    steps = decoding.max_new_tokens
    noise = [uniforms(decoding.seed, *name, steps) for name in names]
    even = torch.from_numpy(np.reshape(noise, (len(names), steps))).to(device)
    return lambda logits, step: draw_tokens(logits, even[:, step], temperature, top_p, top_k)
