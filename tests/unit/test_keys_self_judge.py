"""Which field of a self_judge recipe changes the key of which stage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.self_judge import self_judge
from pipeline_lib.demo.method_data import write_answer_pairs, write_questions
from pipeline_lib.judges import vlm_judge
from pipeline_lib.methods.self_judge import pairs
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe
from tasks.stage.plan import Planned
from tests.keys import changed, changed_stages, leaves, planned

RECIPE, FLOWS = SelfJudgeRecipe, (self_judge,)

LIST, SYNTHESIS, TRAIN = {"list_prompts"}, {"synthesize_pairs"}, {"train_judge"}
JUDGE = {"reason", "evaluate_judge"}
MODEL = {*SYNTHESIS, *JUDGE, *TRAIN}
ONLY_WHERE: set[str] = set()
FLOW: set[str] = set()  # the flow reads it, and hands on what it chooses

FIELDS: dict[str, tuple[Any, set[str]]] = {
    "name": ("another", set()),
    "seed": (5, {*LIST, "list_pairs", *MODEL}),
    "iterations": (3, FLOW),
    "data.dataset": (None, ONLY_WHERE),  # only tables have questions; see test_prompts_table.py
    "data.table": ("elsewhere", ONLY_WHERE),
    "data.images": ("elsewhere", ONLY_WHERE),
    "data.image_column": ("file", LIST),
    "data.split_column": (None, LIST),
    "data.group_column": ("source", LIST),
    "data.split_lists.train": (None, ONLY_WHERE),  # refused, as above
    "data.split_lists.val": (None, ONLY_WHERE),
    "data.split_lists.test": (None, ONLY_WHERE),
    "data.val_fraction": (0.2, LIST),
    "data.test_fraction": (0.2, LIST),
    "data.max_unreadable_fraction": (0.2, LIST),
    "data.max_near_duplicate_fraction": (0.5, FLOW),
    "data.near_duplicate_bits": (2, {"find_near_duplicates"}),
    "data.max_megapixels": (5.0, LIST),
    "data.question_column": ("asked", LIST),
    "data.kind_column": ("kind", LIST),
    "data.answer_column": (None, LIST),
    "data.open_prompts": (("Describe it.",), LIST),
    "model.id": ("owner/name", ONLY_WHERE),
    "model.from_run": (None, ONLY_WHERE),
    "model.revision": ("b" * 40, MODEL),
    "model.dtype": ("float32", MODEL),
    "model.resize_px": (64, MODEL),
    "model.max_tiles": (4, MODEL),
    "model.max_new_tokens": (9, set()),  # pairs and reasons have limits of their own
    "pairs.share": (0.5, SYNTHESIS),
    "pairs.closed_share": (0.5, SYNTHESIS),
    "pairs.inject_prompt": ("short", SYNTHESIS),
    "pairs.answer_temperature": (0.5, SYNTHESIS),
    "pairs.error_temperature": (0.5, SYNTHESIS),
    "pairs.max_length_difference": (0.1, SYNTHESIS),
    "pairs.closed": ("known_answer", SYNTHESIS),
    "pairs.votes": (8, SYNTHESIS),
    "pairs.min_votes": (3, SYNTHESIS),
    "pairs.vote_temperature": (0.5, SYNTHESIS),
    "pairs.max_new_tokens": (9, SYNTHESIS),
    "reasons.prompt": ("short", {*JUDGE, *TRAIN}),
    "reasons.samples": (2, {"reason"}),
    "reasons.temperature": (0.5, {"reason"}),
    "reasons.top_k": (5, {"reason"}),
    "reasons.top_p": (0.5, {"reason"}),
    "reasons.max_new_tokens": (9, JUDGE),
    "filter.both_orders": (False, {"filter_traces"}),
    "training.learning_rate": (1e-3, TRAIN),
    "training.decay_per_iteration": (0.8, TRAIN),
    "training.start_from": ("fresh", TRAIN),
    "training.balance": ("none", TRAIN),
    "training.lora_rank": (8, TRAIN),
    "training.batch_size": (64, TRAIN),
    "training.micro_batch_size": (2, TRAIN),
    "training.epochs": (2, TRAIN),
    "training.schedule": ("cosine", TRAIN),
    "training.max_grad_norm": (0.5, TRAIN),
    "training.max_length": (512, TRAIN),
    "evaluation.bootstrap_samples": (200, {"evaluate_judge"}),
    "evaluation.confidence": (0.9, {"evaluate_judge"}),
    "evaluation.pairs": (None, FLOW),  # stages of their own
    "evaluation.held_out": (0.5, SYNTHESIS),  # that of the held-out pairs alone
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    table = write_questions(folder / "questions", 5, train=6, val=3, test=2)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    more = [
        row | {"file": row["image"], "source": row["image"], "asked": row["question"], "kind": "open"} for row in rows
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in more))
    known = write_answer_pairs(folder / "answer_pairs", 5, count=3)
    return {
        "name": "r",
        "iterations": 2,
        "data": {"table": str(table), "answer_column": "answer", "open_prompts": ["Say what is there."]}
        | {"max_near_duplicate_fraction": 1.0},
        "model": {"id": "owner/model", "revision": "a" * 40},
        "evaluation": {"pairs": [{"name": "known", "table": str(known)}]},
        "runtime": {"store": str(folder / "store")},
    }


@pytest.fixture(scope="module")
def stages_of_base(base: dict[str, Any]) -> dict[str, Planned]:
    return planned(FLOWS, RECIPE, base)


def test_the_table_knows_every_field_of_the_recipe_and_no_other() -> None:
    of_runtime = {name for name in leaves(RECIPE) if name.startswith("runtime.")}
    assert set(leaves(RECIPE)) - {"method"} == set(FIELDS) | of_runtime


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_keys_of_its_stages_and_no_others(
    field: str, base: dict[str, Any], stages_of_base: dict[str, Planned], tmp_path: Path
) -> None:
    (value, stages), data = FIELDS[field], Path(base["data"]["table"]).parent
    if field in ("data.dataset", "data.split_lists.train", "data.split_lists.val", "data.split_lists.test"):
        return
    if field == "data.table":
        shutil.copytree(data, tmp_path / "data")
        value = str(tmp_path / "data" / "questions.jsonl")
    elif field == "data.images":
        value = str(data)
    elif field == "evaluation.pairs":
        value = [*base["evaluation"]["pairs"], base["evaluation"]["pairs"][0] | {"name": "again"}]
    after = planned(FLOWS, RECIPE, changed(RECIPE, base, field, value))
    assert len(stages_of_base.keys() & after.keys()) > 12
    assert changed_stages(stages_of_base, after) == stages


def test_the_text_of_a_prompt_is_in_the_key_and_its_name_is_not(
    base: dict[str, Any], stages_of_base: dict[str, Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, field, name, stages in (
        (vlm_judge, "reasons.prompt", "criteria", {*JUDGE, *TRAIN}),
        (pairs, "pairs.inject_prompt", "detailed", SYNTHESIS),
    ):
        text = (module.FOLDER / f"{name}.txt").read_text()
        (tmp_path / "same.txt").write_text(text)
        (tmp_path / "other.txt").write_text(f"{text}\nBe brief.")
        same, other = (
            planned(FLOWS, RECIPE, changed(RECIPE, base, field, str(tmp_path / f"{which}.txt")))
            for which in ("same", "other")
        )
        assert changed_stages(stages_of_base, same) == set()
        assert changed_stages(stages_of_base, other) == stages


def test_runtime_changes_no_key(base: dict[str, Any], stages_of_base: dict[str, Planned]) -> None:
    others = {"generation_batch_size": 2, "shard_rows": 2, "checkpoint_every": 2, "gradient_checkpointing": False}
    runtime = base["runtime"] | others | {"decode_workers": 2, "pixel_cache": "pixels", "device": "cpu"}
    assert changed_stages(stages_of_base, planned(FLOWS, RECIPE, base | {"runtime": runtime})) == set()
