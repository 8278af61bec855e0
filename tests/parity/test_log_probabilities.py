"""Sharing the prefix changes rounding and nothing else: log-probabilities and gradients of every family."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline_lib.methods.self_improve.pairs import PAIR_ANSWERS
from pipeline_lib.train import prefix_rows
from pipeline_lib.train.prefix_rows import PAIR
from pipeline_lib.train.prefix_shared import sharing_prefix
from pipeline_lib.vlm.generate.attention import why_not_shared
from tests.parity.pairs import (
    Tiny,
    adapted,
    bare,
    each_family,
    pairs,
    plain_batch,
    shared_batch,
    three_families,
    triples,
)

IN_BOTH_PRECISIONS = [*each_family(torch.float64, 1e-12), *three_families(torch.float32, 1e-5)]


def _all_before(row_parts: Tensor) -> Tensor:
    length = row_parts.shape[1]
    return torch.ones(length, length, dtype=torch.bool).tril().expand(len(row_parts), 1, -1, -1)


def _other_order(row_parts: Tensor, answers: int, length: int) -> Tensor:
    return PREDICTORS(row_parts, answers, length).roll(len(row_parts), 0)


PREDICTORS = prefix_rows.predictors
BREAKS: dict[str, Callable[..., Tensor]] = {
    "visible": _all_before,  # rejected sees chosen, as in any causal text
    "restart": lambda positions, row_parts: positions,  # rejected is read as if it followed chosen
}


def plain(tiny: Tiny, rows: list[dict[str, Any]]) -> list[Tensor]:
    """Log-probabilities of each answer's tokens, all chosen before all rejected, as stock TRL's batch has them."""
    batch = plain_batch(tiny, rows)
    mask = batch.pop("completion_mask")[:, 1:].bool()
    found = tiny.model(**batch).logits[:, :-1].log_softmax(-1)
    found = found.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return [row[real] for row, real in zip(found, mask, strict=True)]


def shared(tiny: Tiny, rows: list[dict[str, Any]], answers: tuple[str, ...] = PAIR) -> list[Tensor]:
    batch = shared_batch(tiny, rows, answers)
    base = tiny.model.get_base_model()
    with sharing_prefix(base.model, batch):
        found = tiny.model(input_ids=batch["input_ids"]).logits[:, :-1].log_softmax(-1)
    found = found.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return [row[real] for row, real in zip(found, batch["completion_mask"][:, 1:].bool(), strict=True)]


def gradients(tiny: Tiny, logps: list[Tensor]) -> dict[str, Tensor]:
    """Of a loss in which every token has a weight of its own."""
    tiny.model.zero_grad()
    every = torch.cat(logps)
    (every * torch.linspace(-1, 1.5, len(every), dtype=every.dtype)).sum().backward()
    return {name: weight.grad.clone() for name, weight in tiny.model.named_parameters() if weight.grad is not None}


def difference(tiny: Tiny, rows: list[dict[str, Any]]) -> float:
    ours, theirs = shared(tiny, rows), plain(tiny, rows)
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    assert len({len(row) for row in ours}) > 2
    return float((torch.cat(ours) - torch.cat(theirs)).detach().abs().max())


@pytest.mark.parametrize(("name", "dtype", "tolerance"), IN_BOTH_PRECISIONS)
def test_log_probabilities_of_every_token(name: str, dtype: torch.dtype, tolerance: float) -> None:
    tiny = adapted(name, dtype)
    assert why_not_shared(tiny.model.get_base_model(), 1000) is None
    rows = pairs(tiny.chat, 6)
    assert difference(tiny, rows) < tolerance
    with tiny.model.disable_adapter():
        assert difference(tiny, rows) < tolerance
        reference = torch.cat(plain(tiny, rows))
    assert (torch.cat(plain(tiny, rows)) - reference).abs().max() > 0.1  # the adapter does something


def difference_of_three(tiny: Tiny, rows: list[dict[str, Any]]) -> float:
    """Of the tokens of all answers in rows of three, from rows of one."""
    ours = shared(tiny, rows, PAIR_ANSWERS)
    there = [row for row in rows if row["swapped"]]
    third = plain(tiny, [{**row, "rejected": row["swapped"]} for row in there])[len(there) :]
    assert 0 < len(there) < len(rows)
    assert [len(row) > 0 for row in ours[2 * len(rows) :]] == [bool(row["swapped"]) for row in rows]
    theirs = torch.cat(plain(tiny, rows) + third)
    return float((torch.cat(ours) - theirs).detach().abs().max())


@pytest.mark.parametrize(("name", "dtype", "tolerance"), IN_BOTH_PRECISIONS)
def test_three_answers_in_a_row(name: str, dtype: torch.dtype, tolerance: float) -> None:
    tiny = adapted(name, dtype)
    assert difference_of_three(tiny, triples(tiny.chat, 6)) < tolerance


@pytest.mark.parametrize("name", three_families())
@pytest.mark.parametrize("broken", [*BREAKS, "predictors"])
def test_in_a_row_of_three_what_is_wrong_is_seen(name: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = adapted(name)
    monkeypatch.setattr(prefix_rows, broken, {**BREAKS, "predictors": _other_order}[broken])
    assert difference_of_three(tiny, triples(tiny.chat, 6)) > 1e-2


@pytest.mark.parametrize("name", three_families())
@pytest.mark.parametrize("broken", list(BREAKS))
def test_a_wrong_mask_or_wrong_positions_are_seen(name: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = adapted(name)
    rows = pairs(tiny.chat, 6)
    monkeypatch.setattr(prefix_rows, broken, BREAKS[broken])
    assert difference(tiny, rows) > 1e-2


@pytest.mark.parametrize(
    ("name", "broken"), [*each_family(None), *(case for broken in BREAKS for case in three_families(broken))]
)
def test_gradients(name: str, broken: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = adapted(name)
    rows = pairs(tiny.chat, 6)
    theirs = gradients(tiny, plain(tiny, rows))
    if broken is not None:
        monkeypatch.setattr(prefix_rows, broken, BREAKS[broken])
    ours = gradients(tiny, shared(tiny, rows))
    assert ours.keys() == theirs.keys() and all("lora_" in weight for weight in ours)
    relative = max(float((ours[weight] - theirs[weight]).norm() / theirs[weight].norm()) for weight in theirs)
    assert relative < 1e-5 if broken is None else relative > 1e-3


@pytest.mark.parametrize("name", each_family())
def test_images_are_seen(name: str) -> None:
    tiny = adapted(name)
    rows = pairs(tiny.chat, 4)
    before = torch.cat(shared(tiny, rows))
    rows[0]["image"], rows[3]["image"] = (rows[at]["image"].transpose(0) for at in (0, 3))
    assert (torch.cat(shared(tiny, rows)) - before).abs().max() > 1e-3


def test_models_that_cannot_share_say_why() -> None:
    model = bare("llava-next-mistral").model
    model.config.text_config.sliding_window = 256
    assert why_not_shared(model, 256) is None
    assert "256 tokens" in str(why_not_shared(model, 257))
    model.set_attn_implementation("eager")
    assert "attention is eager" in str(why_not_shared(model, 256))
    model.config.model_type = "paligemma"
    assert "models of type paligemma" in str(why_not_shared(model, 256))
