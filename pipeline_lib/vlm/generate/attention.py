"""Attention for rows with one prefix and several answers, and the models that can take such rows.

Training and generation take the same rows (decisions 9 and 10).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

PREFIX, PADDING = 0, -1
"""Parts of a row; the answers behind the prefix are parts 1, 2, .. in their order."""

SHARED = frozenset({"fast_vlm", "internvl", "llava", "llava_next", "qwen2_5_vl", "qwen3_vl"})
"""The model types for which tests/parity shows that sharing the prefix changes rounding alone."""

LINES = 512
"""Of a mask that is attended as a whole."""

_NAME = "whyscore_behind_prefix"


def why_not_shared(model: Any, longest: int) -> str | None:
    """Why texts of up to `longest` tokens cannot share a prefix; None when they can."""
    config = model.config
    if config.model_type not in SHARED:
        return f"it was not tested with models of type {config.model_type}"
    text = config.get_text_config()
    if text._attn_implementation != "sdpa":  # the mask is a boolean one, which no other takes
        return f"attention is {text._attn_implementation} instead of sdpa"
    window = getattr(text, "sliding_window", None)
    if window is not None and window < longest:
        return f"its attention reaches back {window} tokens, and there are longer texts"
    return None


@contextmanager
def attention_behind_prefix(model: Any) -> Iterator[None]:
    """Within it the language model of `model` takes masks (rows, 1, M, L) of booleans for the last M tokens alone.

    What stands before those is the prefix of every row, seen as in any text. So the long part needs no mask, which
    spares half of its work and lets a GPU take its fastest kernels, and the mask stays small.
    """
    text = model.config.get_text_config()
    own, text._attn_implementation = text._attn_implementation, _NAME
    try:
        yield
    finally:
        text._attn_implementation = own


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    first = query.shape[2] - attention_mask.shape[2]
    behind = _attend_to_seen(query[:, :, first:], key, value, attention_mask, options)
    if not first:
        return behind, None
    prefix, _ = AttentionInterface()["sdpa"](
        module, query[:, :, :first], key[:, :, :first], value[:, :, :first], None, **options
    )
    return torch.cat([prefix, behind], dim=1), None


def _attend_to_seen(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, options: dict[str, Any]) -> Tensor:
    """Many lines are attended in blocks, each with the columns that it sees: the prefix and a few of the answers."""
    if mask.shape[2] <= LINES:
        return _attend_to_all(query, key, value, mask, options)
    if mask not in _blocks:  # one mask is for all layers
        _blocks[mask] = _blocks_of(mask)
    found = []
    for first, columns, seen in _blocks[mask]:
        some = slice(first, first + LINES)
        found.append(_attend_to_all(query[:, :, some], key[:, :, columns], value[:, :, columns], seen, options))
    return torch.cat(found, dim=1)


def _blocks_of(mask: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    """The first line of each block, the columns that any of its lines sees in any row, and its mask for these."""
    blocks = []
    for first in range(0, mask.shape[2], LINES):
        lines = mask[:, :, first : first + LINES]
        columns = lines.any(dim=(0, 1, 2)).nonzero()[:, 0]
        blocks.append((first, columns, lines[..., columns]))
    return blocks


_blocks: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _attend_to_all(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, options: dict[str, Any]) -> Tensor:
    """The library repeats keys and values for all heads that share them; here such heads are more lines of one head."""
    rows, heads, count, width = query.shape
    groups = heads // key.shape[1]
    found = scaled_dot_product_attention(
        query.reshape(rows, heads // groups, groups * count, width),
        key,
        value,
        attn_mask=mask.repeat(1, 1, groups, 1),
        dropout_p=options.get("dropout", 0.0),
        scale=options["scaling"],
    )
    return found.reshape(rows, heads, count, width).transpose(1, 2)


AttentionInterface.register(_NAME, _attend)
