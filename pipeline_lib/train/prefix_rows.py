"""Rows that hold their prefix once, with any number of answers: `[prefix | answer 1 | .. | answer K | padding]`.

The prefix is the prompt with its images, hundreds to thousands of tokens; the answers are short. Each answer is
computed as in a row of its own: its positions follow the prefix, and the other answers are hidden from it.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline_lib.vlm.chat import tokens
from pipeline_lib.vlm.generate.attention import PADDING, PREFIX
from pipeline_lib.vlm.generate.inputs import check_placeholders

PAIR = ("chosen", "rejected")


class Row(NamedTuple):
    """A rendered prompt with its images, in the order of its placeholders, and the answers to it.

    An answer is a rendered string, or the ids of its tokens as they were generated; an empty one has no tokens. A long
    row may be split: rows with some of the answers each give the same values.
    """

    images: Sequence[Image]
    prompt: str
    answers: Sequence[str | Sequence[int]]


def collate_pairs(processor: Any, pairs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """`collate_rows` of pairs as TRL's trainer is given them: `image`, and rendered `prompt`, `chosen`, `rejected`."""
    rows = [Row([pair["image"]], pair["prompt"], [pair[side] for side in PAIR]) for pair in pairs]
    return collate_rows(processor, rows)


def collate_rows(processor: Any, rows: Sequence[Row]) -> dict[str, Tensor]:
    """A batch of B rows of up to K answers, each image processed once.

    - `row_ids`, `row_parts`: (B, L) token ids, and which part of the row each token is of; `attention_mask` likewise
    - `input_ids`, `completion_mask`: (KB, 1 + A) the answers alone, the first ones of all rows before all second ones
      as TRL has them, behind one column that stands for the end of the prefix
    - the processor's other tensors of the images

    Strings are tokenised apart and without special tokens, as TRL does it. A row with fewer answers than K has empty
    ones behind its own. Raises `ValueError` for a prompt without exactly one placeholder an image.
    """
    return put_behind(processor, collate_prompts(processor, rows), [row.answers for row in rows])


def collate_prompts(processor: Any, rows: Sequence[Row]) -> dict[str, Tensor]:
    """The processor's tensors of the rows' images and prompts, padded on the right."""
    check_placeholders(processor, [row.images for row in rows], [row.prompt for row in rows])
    return dict(
        processor(
            images=[list(row.images) for row in rows],
            text=[row.prompt for row in rows],
            padding=True,
            padding_side="right",
            return_tensors="pt",
            add_special_tokens=False,
        )
    )


def put_behind(
    processor: Any, prompts: dict[str, Tensor], answers: Sequence[Sequence[str | Sequence[int]]]
) -> dict[str, Tensor]:
    """The batch of `collate_rows` for some answers to each of these prompts; the images' tensors are not copied."""
    tokenizer, prompts = processor.tokenizer, dict(prompts)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids, mask = prompts.pop("input_ids"), prompts.pop("attention_mask").bool()
    prefixes = [row[real] for row, real in zip(ids, mask, strict=True)]
    by_number = zip_longest(*answers, fillvalue="")
    texts = [[torch.tensor(_ids(tokenizer, text), dtype=ids.dtype) for text in of_rows] for of_rows in by_number]
    parts = list(zip(prefixes, *texts, strict=True))
    row_parts = _pad(
        [torch.cat([torch.full_like(part, kind) for kind, part in enumerate(row)]) for row in parts], PADDING
    )
    alone = [torch.cat([ids.new_tensor([pad]), text]) for of_rows in texts for text in of_rows]
    batch = {
        "row_ids": _pad([torch.cat(row) for row in parts], pad),
        "row_parts": row_parts,
        "attention_mask": (row_parts != PADDING).long(),
        "input_ids": _pad(alone, pad),
        "completion_mask": _pad([torch.ones_like(text) for text in alone], 0),
    }
    batch["completion_mask"][:, 0] = 0
    if "mm_token_type_ids" in prompts:  # which tokens are of an image; those of the answers are not
        kinds = prompts.pop("mm_token_type_ids")
        of_prefix = [row[real] for row, real in zip(kinds, mask, strict=True)]
        batch["mm_token_type_ids"] = torch.nn.functional.pad(
            _pad(of_prefix, 0), (0, row_parts.shape[1] - max(len(row) for row in of_prefix))
        )
    return batch | prompts


def visible(row_parts: Tensor) -> Tensor:
    """(B, 1, M, L) booleans, true where one of the last M tokens (lines) may look at the token of a column.

    It sees the prefix and its own part, as far as they are before it. The tokens without a line are of every row's
    prefix and see what is before them. Padding is at the end and so needs no hiding; what it sees itself does not
    matter, but it has to see something.
    """
    length, first = row_parts.shape[1], int((row_parts == PREFIX).sum(1).min())
    before = torch.ones(length, length, dtype=torch.bool, device=row_parts.device).tril()[first:]
    own = row_parts[:, first:, None] == row_parts[:, None, :]
    return (before & (own | (row_parts == PREFIX)[:, None, :]))[:, None]


def restart(positions: Tensor, row_parts: Tensor) -> Tensor:
    """Positions (.., B, L) of a row read as one text -> those with each answer directly behind the prefix.

    In families with positions in three dimensions too, a token of text is one further than the one before in each.
    """
    between = torch.zeros_like(row_parts)  # tokens of other answers that stand between a token and the prefix
    for answer in range(1, int(row_parts.max())):
        between += (row_parts == answer).sum(1, keepdim=True) * (row_parts > answer)
    return positions - between


def predictors(row_parts: Tensor, answers: int, length: int) -> Tensor:
    """(KB, length) where in its row the token before each token of an answer stands, in the order of `collate_rows`.

    The last token of the prefix predicts the first token of all K `answers`. Behind the end of an answer the values
    have no meaning, but stay inside the row.
    """
    lengths = torch.stack([(row_parts == part).sum(1) for part in range(answers)])  # of all parts but the last
    at = lengths.cumsum(0).flatten()[:, None] + torch.arange(length, device=row_parts.device) - 1
    at[:, 0] = lengths[0].repeat(answers) - 1
    return at.clamp(max=row_parts.shape[1] - 1)


def _ids(tokenizer: Any, answer: str | Sequence[int]) -> Sequence[int]:
    return tokens(tokenizer, answer) if isinstance(answer, str) else answer


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
