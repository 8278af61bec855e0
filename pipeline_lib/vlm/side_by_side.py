"""Greedy decoding of several answers about each image over one cache, which holds what they share once.

A row of a batch is an image, `[prefix | beginnings | a b | a b | ..]`: in each step the next tokens of its answers
stand side by side. A token sees the prefix and what is before it in its own answer, and its position follows from the
two, as in a row of training (`train.prefix_rows`). So the keys and values of the hundreds to thousands of image tokens
are kept once and read once a step, however many answers there are, and are never copied to make room for a token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, GenerationConfig
from transformers.cache_utils import DynamicLayer

PREFIX, PADDING = 0, -1
"""Parts of a row; its answers are parts 1, 2, .. in their order."""


class Prefix(NamedTuple):
    """What the answers of N images have in common, P tokens each, padded on the left."""

    cache: Any  # the library's, with the keys and values of all tokens in every layer; `decode` uses it up
    mask: Tensor  # (N, P) booleans, false at the padding
    positions: Tensor  # (N,) of the token that follows, or (3, N) in families with positions in three dimensions


class Decoded(NamedTuple):
    """The tokens that follow each beginning (N, B, T), and the logits behind `aside` (N, vocabulary)."""

    tokens: Tensor
    aside: Tensor | None


def decode(
    model: Any, prefix: Prefix, beginnings: list[list[list[int]]], config: GenerationConfig, aside: list[int] | None
) -> Decoded:
    """Go on greedily behind the prefix and each of an image's beginnings, which are tokens, at least one.

    An image with fewer beginnings than another has rows without meaning at its end, and so has an answer behind its end
    token. `aside` is one more text of every image, of which the next token's logits are wanted alone.
    """
    pad, ends = config.pad_token_id, torch.tensor(config.eos_token_id, device=prefix.mask.device)
    count = max(map(len, beginnings))
    texts = [[*row, *[[pad]] * (count - len(row)), *([aside] if aside else [])] for row in beginnings]
    fed = _heads_then_ends(texts, pad)
    cache = _Rows(model, prefix, fed.shape[-1] + count * (config.max_new_tokens - 1))
    with _reading_the_prefix_once(model.config.get_text_config()):
        ids, parts, offsets = fed.to(prefix.mask.device)
        logits = cache.feed(ids, parts, offsets, keep=len(texts[0]))
        behind = logits[:, count] if aside else None
        lengths = torch.tensor([[len(text) for text in row[:count]] for row in texts], device=logits.device)
        parts = torch.arange(1, count + 1, device=logits.device).expand_as(lengths)
        done = torch.tensor([[at >= len(row) for at in range(count)] for row in beginnings], device=logits.device)
        steps: list[Tensor] = []
        while True:
            found = logits[:, :count].float()
            found[..., config.suppress_tokens or []] = -torch.inf
            steps.append(found.argmax(-1).masked_fill(done, pad))
            done |= torch.isin(steps[-1], ends)
            if len(steps) == config.max_new_tokens or bool(done.all()):
                return Decoded(torch.stack(steps, -1), behind)
            logits = cache.feed(steps[-1], parts, lengths + len(steps) - 1, keep=count)


def _heads_then_ends(texts: list[list[list[int]]], pad: int) -> Tensor:
    """(3, N, W) ids, parts and offsets: all but the last token of each text, padded on the left, then the last ones.

    So the logits that are wanted are those of the last columns in every row.
    """
    rows = [
        [(token, part, at) for part, text in enumerate(row, 1) for at, token in enumerate(text[:-1])] for row in texts
    ]
    width = max(map(len, rows))
    ends = [[(text[-1], part, len(text) - 1) for part, text in enumerate(row, 1)] for row in texts]
    return torch.tensor(
        [[(pad, PADDING, 0)] * (width - len(row)) + row + end for row, end in zip(rows, ends, strict=True)]
    ).permute(2, 0, 1)


class _Rows:
    """The rows of a batch as far as they have been fed, with room for `room` tokens behind the prefix."""

    def __init__(self, model: Any, prefix: Prefix, room: int):
        self._model, self._positions = model, prefix.positions
        self._cache = prefix.cache
        for at, layer in enumerate(prefix.cache.layers):  # in its place, so that no two layers are there twice
            prefix.cache.layers[at] = _RoomyLayer(layer, room)
        self._length = prefix.mask.shape[1]
        self._parts = torch.full((len(prefix.mask), self._length + room), PADDING, device=prefix.mask.device)
        self._parts[:, : self._length][prefix.mask] = PREFIX

    def feed(self, ids: Tensor, parts: Tensor, offsets: Tensor, keep: int) -> Tensor:
        """Logits (N, keep, vocabulary) of the last columns of `ids` (N, W); `offsets` count from the prefix's end."""
        start, self._length = self._length, self._length + ids.shape[1]
        self._parts[:, start : self._length] = parts
        known = self._parts[:, None, : self._length]
        columns = torch.arange(self._length, device=ids.device)
        before = columns <= columns[start:, None]
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=((known == PREFIX) | ((known == parts[..., None]) & before))[:, None],
            position_ids=self._positions[..., None] + offsets,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits


class _RoomyLayer(DynamicLayer):
    """Keys and values of a layer with room behind them: the library's own copies all of them for every token."""

    def __init__(self, filled: Any, room: int):
        super().__init__()
        self.dtype, self.device, self.is_initialized = filled.keys.dtype, filled.keys.device, True
        self._stores = [self._with_room(states, room) for states in (filled.keys, filled.values)]
        self._show(filled.keys.shape[-2])

    @staticmethod
    def _with_room(states: Tensor, room: int) -> Tensor:
        images, heads, length, width = states.shape
        store = states.new_empty(images, heads, length + room, width)
        store[:, :, :length] = states
        return store

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, start:end] = states
        self._show(end)
        return self.keys, self.values

    def _show(self, length: int) -> None:
        self.keys, self.values = (store[:, :, :length] for store in self._stores)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of a few tokens to a long row, which is read once for all heads that share keys.

    The library repeats keys and values for each of these heads as soon as a row has more than one token.
    """
    rows, heads, count, width = query.shape
    groups = heads // key.shape[1]
    found = scaled_dot_product_attention(
        query.reshape(rows, heads // groups, groups * count, width),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        scale=scaling,
    )
    return found.reshape(rows, heads, count, width).transpose(1, 2), None


_NAME = "whyscore_side_by_side"
AttentionInterface.register(_NAME, _attend)


@contextmanager
def _reading_the_prefix_once(text: Any) -> Iterator[None]:
    own, text._attn_implementation = text._attn_implementation, _NAME
    try:
        yield
    finally:
        text._attn_implementation = own
