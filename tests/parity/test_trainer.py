"""Twenty steps of our trainers and of stock TRL's end with the same weights; ours do a fraction of the work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from pipeline_lib.train import prefix_rows
from pipeline_lib.train.answer_logps import plain_logps, shared_logps
from pipeline_lib.train.lora import keep_base_in_evaluation_mode, lora_config
from pipeline_lib.train.prefix_shared import PrefixSharedDPOTrainer
from pipeline_lib.train.stored_reference import REFERENCE, FastDPOTrainer, StoredReferenceDPOTrainer
from pipeline_lib.vlm.load import Vlm
from tests.parity.pairs import Tiny, bare, data, logps_by_name, three_families, triples
from tests.parity.test_log_probabilities import BREAKS

STEPS = 20
LOGGED = ["loss", "grad_norm", "entropy", "mean_token_accuracy", "rewards/margins", "rewards/accuracies"]
LOGGED += [f"{figure}/{side}" for figure in ("rewards", "logps", "logits") for side in ("chosen", "rejected")]


class Trained(NamedTuple):
    weights: dict[str, torch.Tensor]
    log: list[dict[str, float]]
    encoded: int  # images, or patches or tiles of them, that went into the vision tower
    passes: int  # of the language model
    read: int  # tokens that went into the language model, padding included
    scored: int  # positions that went into its head


def rows_of(tiny: Tiny, trainer_class: Any, count: int) -> list[dict[str, Any]]:
    """What a trainer is given: with the reference's log-probabilities if it does not compute them."""
    rows = triples(tiny.chat, count)
    if issubclass(trainer_class, StoredReferenceDPOTrainer):
        logps = shared_logps if issubclass(trainer_class, FastDPOTrainer) else plain_logps
        found = logps_by_name(logps, Vlm(tiny.model.eval(), tiny.processor, torch.device("cpu")), rows)
        for name, side in zip(REFERENCE, prefix_rows.PAIR, strict=True):
            rows = [row | {name: value} for row, value in zip(rows, found[side], strict=True)]
    return [{name: value for name, value in row.items() if name != "swapped"} for row in rows]


@pytest.fixture(scope="module")
def of_stock() -> dict[str, Trained]:
    """What stock TRL has trained already: it is the same for every test, whatever is broken of ours."""
    return {}


@pytest.fixture
def train(tmp_path: Path, of_stock: dict[str, Trained]) -> Callable[..., Trained]:
    def run(trainer_class: Any, name: str, **options: Any) -> Trained:
        if trainer_class is not DPOTrainer:
            return run_anew(trainer_class, name, **options)
        asked = f"{name} {sorted(options.items())}"
        if asked not in of_stock:
            of_stock[asked] = run_anew(DPOTrainer, name, **options)
        return of_stock[asked]

    def run_anew(trainer_class: Any, name: str, **options: Any) -> Trained:
        tiny = bare(name)
        tiny.model.to(options.pop("dtype", torch.float32))
        torch.manual_seed(7)
        steps, options_rows = options.pop("max_steps", STEPS), options.pop("rows", None)
        given: dict[str, Any] = {
            "output_dir": str(tmp_path / trainer_class.__name__),
            "learning_rate": 5e-5,  # the paper's
            "max_steps": steps,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "bf16": False,
            "max_length": None,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "remove_unused_columns": False,
            "use_cpu": True,
            "seed": 3,
            "disable_tqdm": True,
        }
        trainer = trainer_class(
            model=tiny.model,
            args=DPOConfig(**given | options),
            train_dataset=data(options_rows or rows_of(tiny, trainer_class, 7)),
            processing_class=tiny.processor,
            peft_config=lora_config(tiny.model, 4),
        )
        keep_base_in_evaluation_mode(trainer.model)  # for both: stock TRL would move a convolutional tower's statistics
        counts = {"encoded": 0, "passes": 0, "read": 0, "scored": 0}
        inner = trainer.model.get_base_model().model
        tower = getattr(inner, "vision_tower", None) or inner.visual

        def count_images(module: Any, arguments: Any, keywords: Any) -> None:
            pixels = keywords.get("pixel_values", arguments[0] if arguments else None)
            counts["encoded"] += len(keywords.get("grid_thw", pixels))

        def count_tokens(module: Any, arguments: Any, output: Any) -> None:
            counts["passes"] += 1
            counts["read"] += output.last_hidden_state.shape[:2].numel()

        def count_positions(module: Any, arguments: Any, output: Any) -> None:
            counts["scored"] += output.log_probs.numel()

        tower.register_forward_pre_hook(count_images, with_kwargs=True)
        inner.language_model.register_forward_hook(count_tokens)
        trainer.model.get_base_model().register_forward_hook(count_positions)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        weights = {
            path: weight.detach().clone() for path, weight in trainer.model.named_parameters() if "lora_" in path
        }
        return Trained(weights, [row for row in trainer.state.log_history if "loss" in row], **counts)

    return run


def apart(ours: Trained, theirs: Trained) -> float:
    """The largest difference of a weight."""
    return max(float((ours.weights[path] - theirs.weights[path]).abs().max()) for path in theirs.weights)


def same_figures(ours: Trained, theirs: Trained) -> None:
    for mine, stock in zip(ours.log, theirs.log, strict=True):
        for figure in LOGGED:
            if figure == "rewards/accuracies" and abs(stock["rewards/margins"]) < 1e-5:
                continue  # a fresh adapter prefers neither answer: a stored reference makes rounding of that
            assert mine[figure] == pytest.approx(stock[figure], rel=1e-4, abs=1e-4), figure


@pytest.mark.parametrize("name", three_families())
def test_twenty_steps(name: str, train: Callable[..., Trained]) -> None:
    ours, theirs = train(PrefixSharedDPOTrainer, name), train(DPOTrainer, name)
    assert len(ours.log) == STEPS and theirs.log[-1]["loss"] < theirs.log[0]["loss"]
    assert apart(ours, theirs) < 1e-6
    same_figures(ours, theirs)
    assert theirs.encoded == 4 * ours.encoded
    assert ours.read < 0.65 * theirs.read and ours.scored < 0.5 * theirs.scored
    assert ours.passes == theirs.passes == 2 * STEPS


@pytest.mark.parametrize("name", three_families())
def test_twenty_steps_with_a_stored_reference(name: str, train: Callable[..., Trained]) -> None:
    ours, stock, theirs = (train(kind, name) for kind in (FastDPOTrainer, StoredReferenceDPOTrainer, DPOTrainer))
    for stored in (ours, stock):
        assert apart(stored, theirs) < 1e-6
        same_figures(stored, theirs)
        assert stored.passes == STEPS
    assert theirs.encoded == 4 * ours.encoded == 2 * stock.encoded
    assert 2 * stock.read == theirs.read and ours.read < 0.65 * stock.read


@pytest.mark.parametrize("kind", [FastDPOTrainer, StoredReferenceDPOTrainer])
def test_a_reference_of_the_wrong_answers_is_seen(kind: Any, train: Callable[..., Trained]) -> None:
    theirs = train(DPOTrainer, "qwen2.5-vl")
    chosen, rejected = REFERENCE
    rows = rows_of(bare("qwen2.5-vl"), kind, 7)
    exchanged = [row | {chosen: row[rejected], rejected: row[chosen]} for row in rows]
    assert apart(train(kind, "qwen2.5-vl", rows=exchanged), theirs) > 1e-4


@pytest.mark.parametrize("broken", list(BREAKS))
def test_a_reference_that_was_computed_wrongly_is_seen(
    broken: str, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = train(DPOTrainer, "llava-1.5")
    with monkeypatch.context() as patch:
        patch.setattr(prefix_rows, broken, BREAKS[broken])
        rows = rows_of(bare("llava-1.5"), FastDPOTrainer, 7)
    assert apart(train(FastDPOTrainer, "llava-1.5", rows=rows), theirs) > 1e-5


@pytest.mark.parametrize("name", ["llava-1.5", "qwen2.5-vl"])
@pytest.mark.parametrize("broken", list(BREAKS))
def test_a_wrong_mask_or_wrong_positions_are_seen(
    name: str, broken: str, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = train(DPOTrainer, name)
    monkeypatch.setattr(prefix_rows, broken, BREAKS[broken])
    assert apart(train(PrefixSharedDPOTrainer, name), theirs) > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1, "max_steps": 5},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    ],
    ids=["gradient checkpointing", "accumulation", "likelihood term"],
)
@pytest.mark.parametrize(
    "name", [pytest.param("llava-next-vicuna", marks=pytest.mark.only_with("--all-families")), "qwen3-vl"]
)
def test_with(name: str, options: dict[str, Any], train: Callable[..., Trained]) -> None:
    kinds = (PrefixSharedDPOTrainer, FastDPOTrainer, StoredReferenceDPOTrainer, DPOTrainer)
    *ours, theirs = (train(kind, name, **{"max_steps": 6} | options) for kind in kinds)
    for trained in ours:
        assert apart(trained, theirs) < 1e-6
        same_figures(trained, theirs)


def test_in_16_bit_it_differs_by_no_more_than_16_bit_does(train: Callable[..., Trained]) -> None:
    half = {"dtype": torch.bfloat16, "bf16": True, "max_steps": 6}
    ours, theirs = train(PrefixSharedDPOTrainer, "llava-1.5", **half), train(DPOTrainer, "llava-1.5", **half)
    exact = train(DPOTrainer, "llava-1.5", max_steps=6)
    for mine, stock, true in zip(ours.log, theirs.log, exact.log, strict=True):
        assert mine["logps/chosen"] == pytest.approx(stock["logps/chosen"], rel=5e-3)
        assert mine["logps/chosen"] == pytest.approx(true["logps/chosen"], rel=5e-3)
        assert mine["loss"] == pytest.approx(stock["loss"], abs=0.05)


def test_the_work_of_a_step_is_what_it_should_be(train: Callable[..., Trained]) -> None:
    """One image a pair; each pass reads every prefix once; the head scores the answers alone."""
    tiny = bare("llava-1.5")
    rows = prefix_rows.collate_pairs(tiny.processor, triples(tiny.chat, 7))
    for kind, passes in ((PrefixSharedDPOTrainer, 2), (FastDPOTrainer, 1)):
        ours = train(kind, "llava-1.5", max_steps=1, per_device_train_batch_size=7)
        assert ours.encoded == 7 and ours.passes == passes
        assert ours.read == passes * rows["row_ids"].numel()
        assert ours.scored == passes * rows["completion_mask"][:, 1:].numel()
