"""Several answers about an image, and its score distribution, from one prefill.

Image and prompt are most of a forward pass (hundreds to thousands of tokens against some ten of an answer's beginning).
They are prefilled once; the cache is copied for each beginning, which then costs its own few tokens alone. The tokens
are those of tokenising each whole text: what is shared is found among tokens, never in the text.
"""

import copy
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from PIL.Image import Image

from pipeline_lib.errors import ModelError
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
from pipeline_lib.vlm.score_tokens import ScoreTokens

log = logging.getLogger("whyscore.model")

ONE_PREFILL = frozenset({"internvl", "llava", "llava_next", "qwen2_5_vl", "qwen3_vl"})
"""Model types whose branched cache is tested to give the plain path's texts; every other type takes the plain path."""


class Branches(NamedTuple):
    """Each image's answers in the order of its beginnings; its score distribution where score tokens were given."""

    answers: list[list[Generated]]
    readouts: list[ScoreReadout]


class _Prefix(NamedTuple):
    cache: Any
    ids: torch.Tensor  # (images, tokens), padded on the left
    mask: torch.Tensor
    logits: torch.Tensor  # behind its last token
    rope_deltas: dict[Any, torch.Tensor]  # what M-RoPE models keep of the images' positions between forward passes


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
    vision tower and one prefill an image. Model types outside `ONE_PREFILL` are asked by those two, which is logged.
    """
    model_type = vlm.model.config.model_type
    if model_type not in ONE_PREFILL:
        _log_plain_path(model_type)
        return _plain(vlm, chat, images, beginnings, max_new_tokens, scores)
    owners = [at for at, row in enumerate(beginnings) for _ in row]
    tails = [_tail(vlm, chat, beginning) for row in beginnings for beginning in row]
    score_tail = _tail(vlm, chat, scores.context) if scores else None
    # Of every answer at least one token stays: what follows is read behind a token that is fed, not behind the prefix.
    shared = _common([tail[:-1] for tail in tails] + [score_tail] * (score_tail is not None))
    prefix = _prefill(vlm, chat, images, tails[0][:shared])
    readouts = []
    if scores and score_tail:
        logits = prefix.logits
        if rest := score_tail[shared:]:
            everyone = list(range(len(images)))
            one = greedy_config(vlm, chat, 1, output_logits=True)
            logits = _continue(vlm, prefix, everyone, [rest] * len(images), one).logits[0]
        readouts = read_logits(logits, scores)
    answers = _decode(vlm, chat, prefix, owners, [tail[shared:] for tail in tails], max_new_tokens)
    grouped: list[list[Generated]] = [[] for _ in images]
    for owner, result in zip(owners, answers, strict=True):
        grouped[owner].append(result)
    return Branches(grouped, readouts)


def _plain(
    vlm: Vlm,
    chat: Chat,
    images: Sequence[Image],
    beginnings: Sequence[Sequence[str]],
    max_new_tokens: int,
    scores: ScoreTokens | None,
) -> Branches:
    pictures = [image for image, row in zip(images, beginnings, strict=True) for _ in row]
    texts = [beginning for row in beginnings for beginning in row]
    results = iter(generate_greedy(vlm, chat, pictures, texts, max_new_tokens))
    readouts = read_scores(vlm, chat, scores, images) if scores else []
    return Branches([[next(results) for _ in row] for row in beginnings], readouts)


@cache
def _log_plain_path(model_type: str) -> None:
    log.info("models of type %s read an image once for each text: sharing it is not tested for them", model_type)


def _tail(vlm: Vlm, chat: Chat, beginning: str) -> list[int]:
    """The tokens of the prompt and a beginning that stand behind the image, which is one placeholder here."""
    ids = tokens(vlm.processor.tokenizer, chat.prompt + beginning)
    image = vlm.processor.image_token_id
    return ids[len(ids) - ids[::-1].index(image) :]


def _common(rows: list[Any]) -> int:
    """How many tokens all rows begin with."""
    return next((at for at, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1), min(map(len, rows)))


def _prefill(vlm: Vlm, chat: Chat, images: Sequence[Image], tail: list[int]) -> _Prefix:
    """Feed images, prompt and what the answers have in common: `tail` in the place of what the prompt ends with."""
    inputs = dict(model_inputs(vlm, images, [chat.prompt] * len(images)))
    ends_with = _tail(vlm, chat, "")
    found = inputs["input_ids"][:, -len(ends_with) :]
    if not bool((found == torch.tensor(ends_with, device=found.device)).all()):
        raise ModelError(
            f"behind the image the prompt has the tokens {found[0].tolist()} where the image is read and {ends_with}"
            " where it is a placeholder; this processor is not supported"
        )
    for name, value in (("input_ids", tail), ("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            head = inputs[name][:, : -len(ends_with)]
            inputs[name] = torch.cat([head, _rows(head, value, len(tail))], dim=1)
    output = vlm.model.generate(**inputs, generation_config=greedy_config(vlm, chat, 1, output_logits=True))
    deltas = {module: module.rope_deltas for module in vlm.model.modules() if _has_rope_deltas(module)}
    return _Prefix(output.past_key_values, inputs["input_ids"], inputs["attention_mask"], output.logits[0], deltas)


def _rows(like: torch.Tensor, value: int | list[int], width: int) -> torch.Tensor:
    row = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return row.expand(len(like), width)


def _has_rope_deltas(module: Any) -> bool:
    return getattr(module, "rope_deltas", None) is not None


def _decode(
    vlm: Vlm, chat: Chat, prefix: _Prefix, owners: list[int], rests: list[list[int]], max_new_tokens: int
) -> list[Generated]:
    """All answers whose rests are of one length in one batch: padding inside a text would move sliding windows."""
    groups = defaultdict(list)
    for at, rest in enumerate(rests):
        groups[len(rest)].append(at)
    config = greedy_config(vlm, chat, max_new_tokens)
    results: dict[int, Generated] = {}
    for rows in groups.values():
        of, ends = [owners[at] for at in rows], [rests[at] for at in rows]
        length = prefix.ids.shape[1] + len(ends[0])
        output = _continue(vlm, prefix, of, ends, config)[:, length:].tolist()
        for at, row in zip(rows, output, strict=True):
            given = prefix.ids[owners[at]][prefix.mask[owners[at]].bool()].tolist() + rests[at]
            results[at] = read_continuation(vlm, config, given, row)
    return [results[at] for at in range(len(rests))]


def _continue(vlm: Vlm, prefix: _Prefix, of: list[int], rests: list[list[int]], config: Any) -> Any:
    """Go on behind the prefix: row i feeds `rests[i]` (all of one length) behind the prefix of image `of[i]`."""
    index = torch.tensor(of, device=prefix.ids.device)
    fed = torch.tensor(rests, device=prefix.ids.device)
    mask = prefix.mask[index]
    for module, deltas in prefix.rope_deltas.items():
        module.rope_deltas = deltas[index.to(deltas.device)]
    return vlm.model.generate(
        input_ids=torch.cat([prefix.ids[index], fed], dim=1),
        attention_mask=torch.cat([mask, mask.new_ones(fed.shape)], dim=1),
        past_key_values=_select(prefix.cache, index),
        generation_config=config,
    )


def _select(cache: Any, index: torch.Tensor) -> Any:
    """A cache of its own with the given rows of another, which stays as it is."""
    rows = copy.copy(cache)
    rows.layers = [copy.copy(layer) for layer in cache.layers]
    rows.reorder_cache(index)  # the one way to pick rows that every kind of layer has; it makes new tensors
    return rows
