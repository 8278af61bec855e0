"""Choose the next token: the most probable one, or one drawn with noise that depends on the answer's name.

The noise of a token is one number in [0, 1). It follows from the seed, the key of the row, the number of the answer and
the step, not from a place in a batch. So the sampled texts are the same in batches of any size, in any order, and in
a run that was killed and continued.
"""

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

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


def uniforms(seed: int, key: str, answer: int, steps: int) -> np.ndarray:
    """Uniform numbers in [0, 1), one for each step of an answer; more steps do not change the first ones.

    They come from a counter-based generator (Philox), whose stream is fixed by its definition: a new version of numpy
    does not change them.
    """
    digest = hashlib.sha256(json.dumps([seed, key, answer]).encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(digest[:16])).random_raw(steps)
    return (bits >> np.uint64(11)) * 2.0**-53


def draw_tokens(logits: Tensor, even: Tensor, temperature: float, top_p: float, top_k: int | None = None) -> Tensor:
    """(R,) tokens: the places of the uniform numbers (R,) in the cumulative distributions of the logits (R,
    vocabulary).

    The tokens are in the order of the vocabulary, so that rounding of the logits moves borders slightly and never
    exchanges tokens. Computed in float64.
    """
    probabilities = (logits.double() / temperature).softmax(-1)
    if top_k is not None and top_k < probabilities.shape[-1]:
        order = probabilities.sort(dim=-1, descending=True, stable=True).indices  # of equal ones the first
        probabilities = probabilities.scatter(-1, order[:, top_k:], 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if top_p < 1:
        probabilities = probabilities.masked_fill(~_most_probable(probabilities, top_p), 0)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    # Rounding must not move a number to the end, where no token is.
    at = torch.minimum(even[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, at, right=True)[:, 0]


def _most_probable(probabilities: Tensor, top_p: float) -> Tensor:
    """Booleans: the smallest set of tokens that reaches `top_p`; of equal ones the first in the vocabulary."""
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, order, before < top_p)
