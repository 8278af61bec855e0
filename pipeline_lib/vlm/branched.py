"""Several answers about an image, and its score distribution, from one prefill.

Image and prompt are most of a forward pass (hundreds to thousands of tokens against some ten of an answer's beginning).
They are prefilled once, and the answers are decoded side by side behind them (`side_by_side`). The tokens are those of
tokenising each whole text: what is shared is found among tokens, never in the text.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from PIL.Image import Image

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.score_tokens import ScoreTokens
from pipeline_lib.vlm.chat import Chat, tokens
from pipeline_lib.vlm.inference import (
    Generated,
    ScoreReadout,
    generate_greedy,
    greedy_config,
    model_inputs,
    read_continuation,
    read_logits,
    read_scores,
)
from pipeline_lib.vlm.load import Vlm
from pipeline_lib.vlm.sharing import why_not_shared
from pipeline_lib.vlm.side_by_side import Prefix, decode

log = logging.getLogger("whyscore.model")


class Branches(NamedTuple):
    """Each image's answers in the order of its beginnings; its score distribution where score tokens were given."""

    answers: list[list[Generated]]
    readouts: list[ScoreReadout]


@torch.inference_mode()
def generate_branches(
    vlm: Vlm,
    chat: Chat,
    images: Sequence[Image],
    beginnings: Sequence[Sequence[str]],
    max_new_tokens: int,
    scores: ScoreTokens | None = None,
) -> Branches:
    """Continue `prompt + beginning` greedily for each beginning of each image, and read the scores of the images.

    The results are those of `generate_greedy` and `read_scores` (sections 3.1, 4.3) up to rounding, for one run of the
    vision tower and one prefill an image. A model that cannot share a prefix is asked by those two, which is logged.
    """
    if reason := why_not_shared(vlm.model, 0):
        return _plain(vlm, chat, images, beginnings, max_new_tokens, scores, reason)
    tails = [[_tail(vlm, chat, beginning) for beginning in row] for row in beginnings]
    score_tail = _tail(vlm, chat, scores.context) if scores else None
    # Of every answer at least one token stays: what follows is read behind a token that is fed, not behind the prefix.
    shared = _common([tail[:-1] for row in tails for tail in row] + [score_tail] * (score_tail is not None))
    rests = [[tail[shared:] for tail in row] for row in tails]
    first = next(tail for row in tails for tail in row)[:shared]
    inputs = [_inputs(vlm, chat, image, first) for image in images]
    prefixes = [image["input_ids"][0].tolist() for image in inputs]
    longest = max(map(len, prefixes)) + max(len(rest) for row in rests for rest in row) + max_new_tokens
    if reason := why_not_shared(vlm.model, longest):
        return _plain(vlm, chat, images, beginnings, max_new_tokens, scores, reason)
    config = greedy_config(vlm, chat, max_new_tokens)
    score_rest = score_tail[shared:] if score_tail else []
    read = [_prefill(vlm, chat, [inputs[at] for at in alike], alike) for alike in _alike(inputs)]
    found = decode(vlm.model, read, rests, config, score_rest)
    answers = [
        [read_continuation(vlm, config, ids + rest, tokens) for rest, tokens in zip(row, of_image, strict=False)]
        for ids, row, of_image in zip(prefixes, rests, found.tokens.tolist(), strict=True)
    ]
    return Branches(answers, read_logits(found.aside, scores) if scores else [])


def _plain(
    vlm: Vlm,
    chat: Chat,
    images: Sequence[Image],
    beginnings: Sequence[Sequence[str]],
    max_new_tokens: int,
    scores: ScoreTokens | None,
    reason: str,
) -> Branches:
    _log_plain_path(reason)
    pictures = [image for image, row in zip(images, beginnings, strict=True) for _ in row]
    texts = [beginning for row in beginnings for beginning in row]
    results = iter(generate_greedy(vlm, chat, pictures, texts, max_new_tokens))
    readouts = read_scores(vlm, chat, scores, images) if scores else []
    return Branches([[next(results) for _ in row] for row in beginnings], readouts)


@cache
def _log_plain_path(reason: str) -> None:
    log.info("images are read once for each text, which takes up to twice the time: %s", reason)


def _tail(vlm: Vlm, chat: Chat, beginning: str) -> list[int]:
    """The tokens of the prompt and a beginning that stand behind the image, which is one placeholder here."""
    ids = tokens(vlm.processor.tokenizer, chat.prompt + beginning)
    image = vlm.processor.image_token_id
    return ids[len(ids) - ids[::-1].index(image) :]


def _common(rows: list[Any]) -> int:
    """How many tokens all rows begin with."""
    return next((at for at, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1), min(map(len, rows)))


def _inputs(vlm: Vlm, chat: Chat, image: Image, tail: list[int]) -> dict[str, torch.Tensor]:
    """Image, prompt and what the answers have in common: `tail` in the place of what the prompt ends with."""
    inputs = dict(model_inputs(vlm, [image], [chat.prompt]))
    ends_with = _tail(vlm, chat, "")
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
    """Images that one pass can take without padding: of one number of tokens and of tiles."""
    groups = defaultdict(list)
    for at, image in enumerate(inputs):
        groups[tuple((name, value.shape[1:]) for name, value in image.items())].append(at)
    return list(groups.values())


def _prefill(vlm: Vlm, chat: Chat, inputs: list[dict[str, torch.Tensor]], rows: list[int]) -> Prefix:
    batch = {name: torch.cat([image[name] for image in inputs]) for name in inputs[0]}
    output = vlm.model.generate(**batch, generation_config=greedy_config(vlm, chat, 1, output_logits=True))
    images, length = batch["input_ids"].shape
    positions = torch.full((images, 1), length, device=vlm.device)
    for module in vlm.model.modules():  # M-RoPE models keep how far an image's grid is from its number of tokens
        if getattr(module, "rope_deltas", None) is not None:
            positions = (positions + module.rope_deltas.view(-1, 1)).expand(-1, 3)
            break
    return Prefix(rows, output.past_key_values, output.logits[0], positions)
