"""Draw tokens with noise that depends on an answer's name. An exported model has a copy of this module.

So it imports nothing of WhyScore.
"""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor


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
