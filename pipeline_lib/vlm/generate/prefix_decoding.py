"""Decode several answers to each question over one cache, which holds their shared prefix once.

A row of a batch is a question, `[prefix | beginnings | a b | a b | ..]`: in each step it gets the next tokens of all
its answers. A token sees the prefix and the tokens before it in its own answer, and its position follows from both, as
in a row of training (`train.prefix_rows`). So the keys and values of the hundreds to thousands of image tokens are kept
once and read once a step, however many answers there are, and are never copied to make room for a token.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicLayer

from pipeline_lib.vlm.generate.attention import PADDING, PREFIX, attention_behind_prefix
from pipeline_lib.vlm.generate.decoding import Chooser


class Prefix(NamedTuple):
    """The shared prefix of the answers in some rows of a batch, with equally many tokens in each row."""

    rows: list[int]  # which ones of the batch
    cache: Any  # the library's, with the keys and values of all tokens in every layer; `decode` uses it up
    logits: Tensor  # (rows, vocabulary) behind it
    positions: Tensor  # (rows, 1) of the token that follows, (rows, 3) where there are three dimensions of them


class Decoded(NamedTuple):
    """The tokens that follow each beginning (N, B, T), and the logits behind the text to read (N, vocabulary)."""

    tokens: Tensor
    behind_read: Tensor


def decode(
    model: Any,
    prefixes: list[Prefix],
    beginnings: list[list[list[int]]],
    reads: list[list[int]],
    config: GenerationConfig,
    choose: Chooser,
) -> Decoded:
    """Continue each row's prefix with each of its beginnings (at least one token).

    If a row has fewer beginnings than another, its last answers have no meaning; the same holds for tokens behind an
    end token. `reads` holds one more text of every row, of which only the next token's logits are returned; an empty
    one asks for those behind the prefix. `choose` gets the N x B answers of a step in their order.
    """
    device, pad = prefixes[0].logits.device, config.pad_token_id
    ends = torch.tensor(config.eos_token_id, device=device)
    count = max(map(len, beginnings))
    read = any(reads)
    texts = [
        [*row, *[[pad]] * (count - len(row)), *([text or [pad]] if read else [])]
        for row, text in zip(beginnings, reads, strict=True)
    ]
    behind = torch.cat([prefix.logits for prefix in prefixes])[_order(prefixes).to(device)]
    if not texts[0]:
        return Decoded(torch.empty(len(texts), 0, 0, dtype=torch.long), behind)
    ids, parts, offsets = _heads_then_ends(texts, pad).to(device)
    rows = _Rows(model, prefixes, ids.shape[1] + count * (config.max_new_tokens - 1))
    with attention_behind_prefix(model):
        logits = rows.feed(ids, parts, offsets, keep=len(texts[0]))
        if read:
            fed = torch.tensor([[bool(text)] for text in reads], device=device)
            behind = torch.where(fed, logits[:, count], behind)
        lengths = torch.tensor([[len(text) for text in row[:count]] for row in texts], device=device)
        parts = torch.arange(1, count + 1, device=device).expand_as(lengths)
        done = torch.tensor([[at >= len(row) for at in range(count)] for row in beginnings], device=device)
        steps: list[Tensor] = []
        while not bool(done.all()) and len(steps) < config.max_new_tokens:
            if steps:
                logits = rows.feed(steps[-1], parts, lengths + len(steps) - 1, keep=count)
            found = logits[:, :count].float()
            found[..., config.suppress_tokens or []] = -torch.inf
            chosen = choose(found.flatten(0, 1), len(steps)).view_as(done)
            steps.append(chosen.masked_fill(done, pad))
            done |= torch.isin(steps[-1], ends)
    return Decoded(torch.stack(steps, -1) if steps else parts.new_empty(*parts.shape, 0), behind)


def _order(prefixes: list[Prefix]) -> Tensor:
    """The places of the batch's rows among those of the prefixes."""
    return torch.tensor([at for prefix in prefixes for at in prefix.rows]).argsort()


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

    def __init__(self, model: Any, prefixes: list[Prefix], room: int):
        self._model = model
        order = _order(prefixes)
        self._positions = torch.cat([prefix.positions for prefix in prefixes])[order.to(prefixes[0].positions.device)]
        lengths = [prefix.cache.get_seq_length() for prefix in prefixes]
        self._length = max(lengths)
        self._parts = self._positions.new_full((len(order), self._length + room), PADDING)
        for prefix, length in zip(prefixes, lengths, strict=True):
            self._parts[prefix.rows, self._length - length : self._length] = PREFIX
        layers = range(len(prefixes[0].cache.layers))
        self._cache = Cache(layers=[_RoomyLayer(prefixes, at, len(order), self._length, room) for at in layers])

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
            position_ids=(self._positions.T[..., None] + offsets).squeeze(0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits


class _RoomyLayer(DynamicLayer):
    """Keys and values of a layer with room behind them: the library's own copies all of them for every token."""

    def __init__(self, prefixes: list[Prefix], at: int, rows: int, length: int, room: int):
        super().__init__()
        first = prefixes[0].cache.layers[at]
        self.dtype, self.device, self.is_initialized = first.keys.dtype, first.keys.device, True
        self._stores = [
            states.new_empty(rows, states.shape[1], length + room, states.shape[3])
            for states in (first.keys, first.values)
        ]
        for prefix in prefixes:
            layer = prefix.cache.layers[at]
            prefix.cache.layers[at] = None  # so that only one layer at a time is in memory twice
            for store, states in zip(self._stores, (layer.keys, layer.values), strict=True):
                start = length - states.shape[2]
                store[prefix.rows, :, :start] = 0  # hidden, but NaN would spoil the product with 0
                store[prefix.rows, :, start:length] = states
        self._show(length)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, start:end] = states
        self._show(end)
        return self.keys, self.values

    def _show(self, length: int) -> None:
        self.keys, self.values = (store[:, :, :length] for store in self._stores)
