"""Each answer with a prefix of its own, by the library's `generate`: for models that cannot share one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from pipeline_lib.vlm.generate.decoding import Chooser, Decoding, Greedy, token_chooser
from pipeline_lib.vlm.generate.inputs import (
    Generated,
    NextTokens,
    Question,
    Readout,
    generation_config,
    model_inputs,
    read_continuation,
    read_logits,
)
from pipeline_lib.vlm.load import Vlm


@torch.no_grad()
def generate_plain(vlm: Vlm, questions: Sequence[Question], decoding: Decoding) -> list[list[Generated]]:
    """Continue `prompt + beginning` for each beginning of each question, in one batch with a row an answer.

    Batches are padded on the left, so an answer is the same as without a batch, up to rounding.
    """
    rows = [(question, at) for question in questions for at in range(len(question.beginnings))]
    if not rows:
        return [[] for _ in questions]
    texts = [question.chat.prompt + question.beginnings[at] for question, at in rows]
    inputs = model_inputs(vlm, [question.images for question, _ in rows], texts)
    config = generation_config(vlm, questions[0].chat, decoding.max_new_tokens)
    length = inputs["input_ids"].shape[1]
    names = [(question.key, question.first_answer + at) for question, at in rows]
    choose = _Choose(token_chooser(decoding, names, vlm.device), length)
    chosen = LogitsProcessorList([] if isinstance(decoding, Greedy) else [choose])
    output = vlm.model.generate(**inputs, generation_config=config, logits_processor=chosen)[:, length:].tolist()
    given = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    results = iter(read_continuation(vlm, config, before, row) for before, row in zip(given, output, strict=True))
    return [[next(results) for _ in question.beginnings] for question in questions]


@torch.no_grad()
def read_plain(vlm: Vlm, questions: Sequence[Question], read: NextTokens) -> list[Readout]:
    """Probabilities of the tokens of `read` behind `prompt + context` of each question, in one pass."""
    texts = [question.chat.prompt + read.context for question in questions]
    inputs = model_inputs(vlm, [question.images for question in questions], texts)
    return read_logits(vlm.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1], read.ids)


class _Choose(LogitsProcessor):
    """Leaves the library's greedy search only the tokens that were chosen."""

    def __init__(self, choose: Chooser, length: int):
        self._choose, self._length = choose, length  # of the prompt, padding included

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self._choose(scores, input_ids.shape[1] - self._length)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)
