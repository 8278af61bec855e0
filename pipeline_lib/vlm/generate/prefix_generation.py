"""Any number of answers to each question, and probabilities of next tokens, from one prefill a question.

Images and prompt are most of a forward pass: hundreds to thousands of tokens, against some ten of an answer's
beginning. They are prefilled once, and all answers are decoded behind them (`prefix_decoding`). Each whole text is
tokenised, and the shared prefix is found among the tokens, never in the text.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch

from pipeline_lib.errors import ModelError
from pipeline_lib.vlm.chat import Chat, tokens
from pipeline_lib.vlm.generate.attention import why_not_shared
from pipeline_lib.vlm.generate.decoding import Decoding, Sampled, token_chooser
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
from pipeline_lib.vlm.generate.plain import generate_plain, read_plain
from pipeline_lib.vlm.generate.prefix_decoding import Prefix, decode
from pipeline_lib.vlm.load import Vlm

log = logging.getLogger("whyscore.model")


class Answers(NamedTuple):
    """Each question's answers in the order of its beginnings; a readout for each question if asked for."""

    answers: list[list[Generated]]
    readouts: list[Readout]


@torch.no_grad()  # not inference_mode, whose tensors a model that is being trained could not use
def generate_answers(
    vlm: Vlm, questions: Sequence[Question], decoding: Decoding, read: NextTokens | None = None
) -> Answers:
    """Continue `prompt + beginning` for each beginning of each question, and read probabilities of next tokens.

    The model has to be in evaluation mode. Results do not depend on the other questions of the batch, up to rounding.
    A model that cannot share a prefix reads it once an answer (`plain`), with the same results; this is logged once.
    Raises `ValueError` for a sampled answer to a question without a key, `DataError` for an image of a shape that the
    model's family does not take.
    """
    if isinstance(decoding, Sampled) and any(question.beginnings and not question.key for question in questions):
        raise ValueError("a question with sampled answers needs a key that names its row, such as the image's name")
    if not questions:
        return Answers([], [])
    if reason := why_not_shared(vlm.model, 0):
        return _plain(vlm, questions, decoding, read, reason)
    texts = _split(vlm, questions, read)
    inputs = [_inputs(vlm, question, text.shared) for question, text in zip(questions, texts, strict=True)]
    prefixes = [row["input_ids"][0].tolist() for row in inputs]
    longest = max(map(len, prefixes)) + max(text.longest() for text in texts) + decoding.max_new_tokens
    if reason := why_not_shared(vlm.model, longest):
        return _plain(vlm, questions, decoding, read, reason)
    config = generation_config(vlm, questions[0].chat, decoding.max_new_tokens)
    count = max(len(question.beginnings) for question in questions)
    names = [(question.key, question.first_answer + at) for question in questions for at in range(count)]
    found = decode(
        vlm.model,
        [_prefill(vlm, questions[0].chat, [inputs[at] for at in alike], alike) for alike in _alike(inputs)],
        [text.answers for text in texts],
        [text.read for text in texts],
        config,
        token_chooser(decoding, names, vlm.device),
    )
    answers = [
        [read_continuation(vlm, config, ids + rest, after) for rest, after in zip(text.answers, row, strict=False)]
        for ids, text, row in zip(prefixes, texts, found.tokens.tolist(), strict=True)
    ]
    return Answers(answers, read_logits(found.behind_read, read.ids) if read else [])


def _plain(
    vlm: Vlm, questions: Sequence[Question], decoding: Decoding, read: NextTokens | None, reason: str
) -> Answers:
    _log_plain_path(reason)
    return Answers(
        generate_plain(vlm, questions, decoding), read_plain(vlm, questions, read) if read is not None else []
    )


@cache
def _log_plain_path(reason: str) -> None:
    log.info("images are read once for each text, which takes up to twice the time: %s", reason)


class _Texts(NamedTuple):
    """The tokens behind the last image of a question: the common beginning of all its texts, and the rest of each."""

    shared: list[int]
    answers: list[list[int]]
    read: list[int]

    def longest(self) -> int:
        """Tokens of the longest rest."""
        return max(map(len, [*self.answers, self.read]))


def _split(vlm: Vlm, questions: Sequence[Question], read: NextTokens | None) -> list[_Texts]:
    tail = cache(lambda chat, beginning: _tail(vlm, chat, beginning))  # many questions have one prompt
    found = []
    for question in questions:
        answers = [tail(question.chat, beginning) for beginning in question.beginnings]
        behind = [tail(question.chat, read.context)] if read else []
        # Of every answer at least one token stays, because logits are read behind a token that is fed.
        shared = _common([ids[:-1] for ids in answers] + behind)
        of_read = behind[0][shared:] if behind else []
        found.append(_Texts([*answers, *behind, []][0][:shared], [ids[shared:] for ids in answers], of_read))
    return found


def _tail(vlm: Vlm, chat: Chat, beginning: str) -> list[int]:
    """The tokens of the prompt and a beginning that stand behind the last image, which is one placeholder here.

    Without an image those behind the first token.
    """
    ids = tokens(vlm.processor.tokenizer, chat.prompt + beginning)
    image = vlm.processor.image_token_id
    return ids[len(ids) - ids[::-1].index(image) :] if image in ids else ids[1:]


def _common(rows: list[list[int]]) -> int:
    """The number of tokens that all rows begin with."""
    shortest = min(map(len, rows), default=0)
    return next((at for at, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1), shortest)


def _inputs(vlm: Vlm, question: Question, tail: list[int]) -> dict[str, torch.Tensor]:
    """Images, prompt and the common tokens of the answers: `tail` replaces the end of the prompt."""
    inputs = dict(model_inputs(vlm, [question.images], [question.chat.prompt]))
    ends_with = _tail(vlm, question.chat, "")
    found = inputs["input_ids"][0, -len(ends_with) :].tolist()
    if found != ends_with:
        raise ModelError(
            f"behind the image the prompt has the tokens {found} where the image is read and {ends_with}"
            " where it is a placeholder; this processor is not supported"
        )
    for name, value in (
        ("input_ids", tail),
        ("attention_mask", [1] * len(tail)),
        ("mm_token_type_ids", [0] * len(tail)),
    ):
        if name in inputs:
            head = inputs[name][:, : -len(ends_with)]
            inputs[name] = torch.cat([head, head.new_tensor([value])], dim=1)
    return inputs


def _alike(inputs: list[dict[str, torch.Tensor]]) -> list[list[int]]:
    """Rows that one pass can take without padding: of one number of tokens and of tiles."""
    groups = defaultdict(list)
    for at, row in enumerate(inputs):
        groups[tuple((name, value.shape[1:]) for name, value in row.items())].append(at)
    return list(groups.values())


def _prefill(vlm: Vlm, chat: Chat, inputs: list[dict[str, torch.Tensor]], rows: list[int]) -> Prefix:
    batch = {name: torch.cat([row[name] for row in inputs]) for name in inputs[0]}
    output = vlm.model.generate(**batch, generation_config=generation_config(vlm, chat, 1, output_logits=True))
    count, length = batch["input_ids"].shape
    positions = torch.full((count, 1), length, device=vlm.device)
    for module in vlm.model.modules():  # M-RoPE models keep how far the images' grids are from their numbers of tokens
        if getattr(module, "rope_deltas", None) is not None:
            positions = (positions + module.rope_deltas.view(-1, 1)).expand(-1, 3)
            break
    return Prefix(rows, output.past_key_values, output.logits[0], positions)
