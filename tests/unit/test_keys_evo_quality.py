"""Which field of an evo_quality recipe changes the key of which stage."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.evo_quality import evo_quality
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from tasks.stage.plan import Planned
from tests.keys import changed, changed_stages, leaves, planned

RECIPE, FLOWS = EvoQualityRecipe, (evo_quality,)

RATE = {"compare_with_votes", "evaluate_ratings"}
ASK = {"vote", *RATE, "rate_images"}
TRAIN = {"train_ranking"}
ONLY_WHERE: set[str] = set()
FLOW: set[str] = set()  # the flow reads it, and hands on what it chooses

FIELDS: dict[str, tuple[Any, set[str]]] = {
    "name": ("another", set()),
    "seed": (5, {"list_images", "make_variants", "draw_pairs", *ASK, *TRAIN}),
    "rounds": (1, FLOW),
    "prompts": ("paper_direct", {*ASK, *TRAIN}),
    "data.dataset": ("koniq10k", {"list_images"}),
    "data.table": ("elsewhere.csv", ONLY_WHERE),
    "data.images": ("elsewhere", ONLY_WHERE),
    "data.image_column": ("file", {"list_images"}),
    "data.split_column": (None, {"list_images"}),
    "data.group_column": ("source", {"list_images"}),
    "data.split_lists.train": ("train.txt", {"list_images"}),
    "data.split_lists.val": ("val.txt", {"list_images"}),
    "data.split_lists.test": ("test.txt", {"list_images"}),
    "data.val_fraction": (0.2, {"list_images"}),
    "data.test_fraction": (0.2, {"list_images"}),
    "data.max_unreadable_fraction": (0.2, {"list_images"}),
    "data.max_near_duplicate_fraction": (0.5, FLOW),
    "data.near_duplicate_bits": (2, {"find_near_duplicates"}),
    "data.max_megapixels": (5.0, {"list_images"}),
    "model.id": ("owner/name", ONLY_WHERE),
    "model.from_run": (None, ONLY_WHERE),
    "model.revision": ("b" * 40, {*ASK, *TRAIN}),
    "model.dtype": ("float32", {*ASK, *TRAIN}),
    "model.resize_px": (64, {"make_variants", *ASK, *TRAIN}),
    "model.max_tiles": (4, {*ASK, *TRAIN}),
    "model.max_new_tokens": (9, set()),  # a rating is as long as training.grpo.max_new_tokens
    "pairs.count": (50, {"draw_pairs"}),
    "pairs.held_out": (50, {"draw_pairs"}),
    "pairs.variants.per_image": (3, {"make_variants"}),
    "pairs.variants.kinds": (24, {"make_variants"}),
    "pairs.variants.from_round": (3, {"draw_pairs", "vote", "rate_images", *TRAIN}),  # no variants in round 2
    "pairs.variants.fraction": (0.25, {"draw_pairs"}),
    "votes.method": ("exact", {"vote"}),
    "votes.answers": (4, {"vote"}),
    "votes.temperature": (0.5, {"vote"}),
    "votes.max_new_tokens": (9, {"vote"}),
    "votes.label": ("share", {"vote"}),
    "training.learning_rate": (1e-3, TRAIN),
    "training.target": ("votes", TRAIN),
    "training.partners": (2, set()),  # nor partners
    "training.gamma": (1e-3, set()),  # the ablation has no Thurstone probability: see the test below
    "training.format_weight": (0.5, TRAIN),
    "training.lora_rank": (8, TRAIN),
    "training.batch_size": (64, TRAIN),
    "training.micro_batch_size": (2, TRAIN),
    "training.epochs": (2, TRAIN),
    "training.schedule": ("cosine", TRAIN),
    "training.max_grad_norm": (0.5, TRAIN),
    "training.max_length": (512, TRAIN),
    "training.grpo.answers": (4, TRAIN),
    "training.grpo.max_new_tokens": (9, {*TRAIN, *RATE, "rate_images"}),
    "training.grpo.temperature": (0.5, TRAIN),
    "training.grpo.top_p": (0.5, TRAIN),
    "training.grpo.beta": (0.5, TRAIN),
    "training.grpo.loss_type": ("dapo", TRAIN),
    "training.grpo.scale_rewards": ("none", TRAIN),
    "training.grpo.answers_per_pass": (2, TRAIN),
    "evaluation.bootstrap_samples": (200, RATE),
    "evaluation.confidence": (0.9, RATE),
    "evaluation.answers": (4, {*RATE, "rate_images"}),
    "evaluation.temperature": (0.5, {*RATE, "rate_images"}),
    "evaluation.exact": ({"least_mass": 0.9}, {*RATE, "rate_images"}),
    "evaluation.labelled": (None, FLOW),  # stages of its own
    "evaluation.stop": (None, FLOW),
    "runtime.training_processes": (4, TRAIN),  # the number decides what is sampled
}


def fields_of_runtime() -> set[str]:
    return {name for name in leaves(RECIPE) if name.startswith("runtime.")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    table = write_dataset(folder, seed=5, train=100, val=30, test=30)
    rows = pd.read_csv(table)
    for column, same in {"file": "image", "source": "image"}.items():
        rows[column] = rows[same]
    rows.to_csv(table, index=False)
    koniq10k = rows[["image", "score", "split"]].set_axis(["image_name", "MOS", "set"], axis=1)
    koniq10k.to_csv(folder / "koniq10k.csv", index=False)
    for split in ("train", "val", "test"):
        names = rows.loc[rows["split"] == split, "image"]
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    labelled = {"name": "test", "table": str(table), "split_column": "split", "split": "test"}
    return {
        "name": "r",
        "data": {"table": str(table), "max_near_duplicate_fraction": 1.0},
        "model": {"id": "owner/model", "revision": "a" * 40},
        "pairs": {"count": 100, "held_out": 20},
        "training": {"target": "own_mean"},  # which has one stage more
        "evaluation": {"labelled": [labelled]},
        "runtime": {"store": str(folder / "store"), "training_processes": 2},
    }


@pytest.fixture(scope="module")
def stages_of_base(base: dict[str, Any]) -> dict[str, Planned]:
    return planned(FLOWS, RECIPE, base)


def test_the_table_knows_every_field_of_the_recipe_and_no_other() -> None:
    assert set(leaves(RECIPE)) - {"method"} == set(FIELDS) | fields_of_runtime()


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_keys_of_its_stages_and_no_others(
    field: str, base: dict[str, Any], stages_of_base: dict[str, Planned], tmp_path: Path
) -> None:
    (value, stages), data = FIELDS[field], Path(base["data"]["table"]).parent
    if field == "data.table":
        shutil.copytree(data, tmp_path / "data")
        value = str(tmp_path / "data" / "scores.csv")
    elif field == "data.images":
        value = str(data)
    elif field.startswith("data.split_lists."):
        value = str(data / value)
    elif field == "evaluation.labelled":
        value = [*base["evaluation"]["labelled"], {"name": "other", "table": base["data"]["table"]}]
    elif field == "evaluation.stop":
        value = {"name": "other", "table": base["data"]["table"]}
    moved = changed(RECIPE, base, "data.table", str(data / "koniq10k.csv")) if field == "data.dataset" else base
    after = planned(FLOWS, RECIPE, changed(RECIPE, moved, field, value))
    assert len(stages_of_base.keys() & after.keys()) > 8
    assert changed_stages(stages_of_base, after) == stages


def test_gamma_is_in_the_key_of_a_training_on_votes(base: dict[str, Any]) -> None:
    on_votes = changed(RECIPE, base, "training.target", "votes")
    before, after = (planned(FLOWS, RECIPE, changed(RECIPE, on_votes, "training.gamma", at)) for at in (1e-3, 1e-2))
    assert changed_stages(before, after) == TRAIN


def test_runtime_changes_no_key_but_for_the_number_of_processes(
    base: dict[str, Any], stages_of_base: dict[str, Planned]
) -> None:
    others = {"generation_batch_size": 2, "shard_rows": 2, "checkpoint_every": 2, "gradient_checkpointing": False}
    runtime = base["runtime"] | others | {"decode_workers": 2, "pixel_cache": "pixels", "device": "cpu"}
    assert changed_stages(stages_of_base, planned(FLOWS, RECIPE, base | {"runtime": runtime})) == set()
