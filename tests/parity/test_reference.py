"""The stored reference is the one that TRL's trainer would compute in its steps, for a fraction of the work."""

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOConfig, DPOTrainer

from pipeline_lib.methods.self_improve.pairs import PAIR_ANSWERS
from pipeline_lib.train import prefix_rows
from pipeline_lib.train.answer_logps import plain_logps, shared_logps
from pipeline_lib.train.lora import keep_base_in_evaluation_mode, lora_config
from pipeline_lib.vlm.chat import tokens
from pipeline_lib.vlm.load import Vlm
from tests.parity.pairs import (
    Tiny,
    bare,
    data,
    each_family,
    logps_by_name,
    pairs,
    plain_batch,
    shared_batch,
    three_families,
    triples,
)
from tests.parity.test_generation import Work
from tests.parity.test_log_probabilities import BREAKS, _other_order

ROUNDING = float(torch.finfo(torch.float32).eps)
"""Of a sum, which TRL makes in float32 and the stored reference in float64."""


def vlm_of(tiny: Tiny) -> Vlm:
    return Vlm(tiny.model.eval(), tiny.processor, torch.device("cpu"))


def of_trl(tiny: Tiny, rows: list[dict[str, Any]], folder: Path) -> list[float]:
    """All chosen, then all rejected, by TRL's code for storing them, which it refuses to run on images by itself."""
    half = tiny.model.dtype == torch.bfloat16
    trainer = DPOTrainer(
        model=tiny.model,
        args=DPOConfig(output_dir=str(folder), bf16=half, use_cpu=True, max_length=None, report_to="none"),
        train_dataset=data(pairs(tiny.chat, 2)),
        processing_class=tiny.processor,
        peft_config=lora_config(tiny.model, 4),
    )
    keep_base_in_evaluation_mode(trainer.model)
    trainer.model.train()
    return torch.cat(trainer.compute_ref_log_probs(trainer.model, plain_batch(tiny, rows))).tolist()


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"), [*each_family(torch.float32, 1e-6), *three_families(torch.bfloat16, 5e-3)]
)
def test_stored_values_are_trls_own(name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    tiny = bare(name)
    tiny.model.to(dtype)
    rows = triples(tiny.chat, 6)
    length = {text: len(tokens(tiny.processor.tokenizer, text)) for row in rows for text in map(row.get, PAIR_ANSWERS)}
    found = [logps_by_name(logps, vlm_of(tiny), rows) for logps in (shared_logps, plain_logps)]
    expected = of_trl(tiny, rows, tmp_path)
    texts = [row[side] for side in prefix_rows.PAIR for row in rows]
    for values in found:
        ours = values["chosen"] + values["rejected"]
        assert all(
            abs(mine - stock) < tolerance * length[text] + ROUNDING * abs(stock)
            for mine, stock, text in zip(ours, expected, texts, strict=True)
        )
    for row, *swapped in zip(rows, *(values["swapped"] for values in found), strict=True):
        assert abs(swapped[0] - swapped[1]) <= tolerance * length[row["swapped"]]
        assert (swapped[0] != 0) == bool(row["swapped"])


@pytest.mark.parametrize("name", three_families())
@pytest.mark.parametrize("broken", [*BREAKS, "predictors"])
def test_what_is_wrong_in_a_row_is_seen(name: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = bare(name)
    rows = triples(tiny.chat, 6)
    right = logps_by_name(plain_logps, vlm_of(tiny), rows)
    monkeypatch.setattr(prefix_rows, broken, {**BREAKS, "predictors": _other_order}[broken])
    wrong = logps_by_name(shared_logps, vlm_of(tiny), rows)
    assert max(abs(a - b) for side in PAIR_ANSWERS for a, b in zip(right[side], wrong[side], strict=True)) > 1


@pytest.mark.parametrize("name", each_family())
def test_each_image_is_seen_and_each_prefix_read_once(name: str) -> None:
    """The guard of the speed: one pass for the answers of both kinds of pairs, and the head scores answers alone."""
    tiny = bare(name)
    rows = triples(tiny.chat, 6)
    batch = shared_batch(tiny, rows, PAIR_ANSWERS)
    vlm = vlm_of(tiny)
    with Work(vlm) as once:
        logps_by_name(shared_logps, vlm, rows)
    assert once.prefills == [6]
    assert once.tokens == batch["row_ids"].numel()
    with Work(vlm) as apart:
        logps_by_name(plain_logps, vlm, rows)
    assert apart.prefills == [6, 6, 4]
    assert 2 * once.seen < apart.seen < 3 * once.seen
    assert once.tokens < 0.6 * apart.tokens
    assert "forward" not in vlm.model.__dict__  # the head of TRL's trainer is gone again
