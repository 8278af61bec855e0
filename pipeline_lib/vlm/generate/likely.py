"""The most probable answers to a question with their probabilities, by following the tree of tokens."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from pipeline_lib.errors import ModelError
from pipeline_lib.vlm.generate.attention import why_not_shared
from pipeline_lib.vlm.generate.decoding import Sampled
from pipeline_lib.vlm.generate.inputs import Question, generation_config, read_continuation
from pipeline_lib.vlm.generate.prefix_decoding import Prefix, decode
from pipeline_lib.vlm.generate.prefix_generation import _inputs, _prefill, _split
from pipeline_lib.vlm.load import Vlm

PATHS_AT_ONCE = 128
"""Branches of a question that one pass reads."""

MOST_BRANCHES = 4096
"""Branches of a step that are followed, the most probable ones."""


class LikelyAnswers(NamedTuple):
    """The most probable answers to a question, and the probability of all others."""

    texts: list[tuple[str, float]]  # each with its probability
    rest: float


@torch.no_grad()
def likely_answers(vlm: Vlm, questions: Sequence[Question], decoding: Sampled, *, least: float) -> list[LikelyAnswers]:
    """Every answer that `decoding` would draw with a probability of at least `least`, with that probability.

    The tree of tokens is followed from its root; a branch less probable than `least` is not, and its probability is in
    `rest`. So is that of a branch beyond `MOST_BRANCHES`, the most probable ones of a step. An answer that is cut at
    `max_new_tokens` counts as it stands, as in sampling. Raises `ModelError` for a model that cannot share a prefix,
    and for a decoding that cuts its distribution.
    """
    if decoding.top_p < 1 or decoding.top_k is not None:
        raise ModelError("the probabilities of answers are those of the whole distribution; set top_p to 1, top_k null")
    return [_likely(vlm, question, decoding, least) for question in questions]


def _likely(vlm: Vlm, question: Question, decoding: Sampled, least: float) -> LikelyAnswers:
    (text,) = _split(vlm, [question._replace(beginnings=[""])], None)
    inputs = _inputs(vlm, question, text.shared)
    length = inputs["input_ids"].shape[1] + decoding.max_new_tokens + 1
    if reason := why_not_shared(vlm.model, length):
        raise ModelError(f"the probabilities of answers need a model whose answers share a prefix: {reason}")
    config = generation_config(vlm, question.chat, 1)
    prefix = _prefill(vlm, question.chat, [inputs], [0], None)
    (begin,) = text.answers
    prompt = inputs["input_ids"][0].tolist() + begin
    open_paths: list[tuple[list[int], float]] = [([], 1.0)]
    ended: list[tuple[list[int], float]] = []
    for _ in range(decoding.max_new_tokens):
        branches: list[tuple[list[int], float]] = []
        for chunk in (open_paths[at : at + PATHS_AT_ONCE] for at in range(0, len(open_paths), PATHS_AT_ONCE)):
            found = _next_distributions(vlm, copy.deepcopy(prefix), [begin + path for path, _ in chunk], config)
            before = torch.tensor([[p] for _, p in chunk], dtype=torch.float64, device=found.device)
            found = (found / decoding.temperature).softmax(-1) * before
            for row, token in (found >= least).nonzero().tolist():
                branches.append(([*chunk[row][0], token], float(found[row, token])))
        ended += [branch for branch in branches if branch[0][-1] in config.eos_token_id]
        open_paths = [branch for branch in branches if branch[0][-1] not in config.eos_token_id]
        open_paths = sorted(open_paths, key=lambda branch: -branch[1])[:MOST_BRANCHES]
        if not open_paths:
            break
    texts = [(read_continuation(vlm, config, prompt, path).text, p) for path, p in ended + open_paths]
    return LikelyAnswers(texts, max(0.0, 1.0 - sum(p for _, p in texts)))


def _next_distributions(vlm: Vlm, prefix: Prefix, paths: list[list[int]], config: Any) -> torch.Tensor:
    """(paths, vocabulary) logits in float64 behind each path."""
    kept: list[torch.Tensor] = []

    def keep(logits: torch.Tensor, step: int) -> torch.Tensor:
        kept.append(logits.double())
        return logits.argmax(-1)

    decode(vlm.model, [prefix], [paths], [[]], config, keep)
    return kept[0]
