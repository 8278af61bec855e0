"""Which recipe field changes the key of which stage: every field stands in the table below, or the test fails."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tasks
from flows.experiments.ablation import ablation
from flows.self_improve import self_improve
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.methods.self_improve import rubric
from pipeline_lib.methods.self_improve.prompt import Criterion, Prompt
from pipeline_lib.methods.self_improve.recipe import Merge, SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, artifact_key, canonical_json
from pipeline_lib.store.key import key_fields
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Stage
from tasks.stage.plan import Planned
from tests.keys import changed, changed_stages, leaves, planned

RECIPE, FLOWS = SelfImproveRecipe, (self_improve, ablation)

TRAIN = {"train_score", "train_consistency"}
LEARN = {*TRAIN, "train_sft"}
MODEL = {"check_model", "generate", "compute_reference", *LEARN, "ties_merge", "evaluate", "probe_faithfulness"}
PROMPT = {"check_model", "generate", "compute_reference", *LEARN, "evaluate", "probe_faithfulness"}
SEED = {
    "discretize", "generate", "swap", *LEARN, "ties_merge", "evaluate", "fit_judge", "judge", "judge_openai",
    "probe_faithfulness", "keep_anchors",
}  # fmt: skip
EVALUATION = {"evaluate", "judge", "judge_openai", "probe_faithfulness"}
ONLY_WHERE: set[str] = set()
FLOW: set[str] = set()  # read by the flow, which hands on what it chooses: a number of rows, a cell, a merge, a text

# field -> another value, and the stages whose key it changes by itself
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "name": ("another", set()),
    "seed": (5, SEED),
    "iterations": (2, {"keep_anchors"}),
    "prompt": ("aesthetics_short", PROMPT),
    "data.dataset": ("koniq10k", {"discretize"}),
    "data.table": ("elsewhere.csv", ONLY_WHERE),
    "data.images": ("elsewhere", ONLY_WHERE),
    "data.image_column": ("file", {"discretize"}),
    "data.score_column": ("mos", {"discretize"}),
    "data.split_column": (None, {"discretize"}),
    "data.group_column": ("source", {"discretize"}),
    "data.split_lists.train": ("train.txt", {"discretize"}),  # which is in the fingerprint of the rows
    "data.split_lists.val": ("val.txt", {"discretize"}),
    "data.split_lists.test": ("test.txt", {"discretize"}),
    "data.val_fraction": (0.2, {"discretize"}),
    "data.test_fraction": (0.2, {"discretize"}),
    "data.max_unreadable_fraction": (0.2, {"discretize"}),
    "data.max_near_duplicate_fraction": (0.5, FLOW),
    "data.near_duplicate_bits": (2, {"find_near_duplicates"}),
    "data.max_megapixels": (5.0, {"discretize"}),
    "model.id": ("owner/name", ONLY_WHERE),
    "model.from_run": (None, ONLY_WHERE),  # see tests/flows/test_from_run.py
    "model.revision": ("b" * 40, MODEL),  # the fingerprint of a model on the hub
    "model.dtype": ("float32", MODEL),
    "model.resize_px": (64, MODEL),
    "model.max_tiles": (4, MODEL),
    "model.max_new_tokens": (9, {"generate", "evaluate", "probe_faithfulness"}),
    "generation.fraction": (0.5, {"generate"}),
    "generation.redraw": (False, {"generate"}),
    "generation.min_distance": (2, {"generate"}),
    "generation.engine": ("openai", {"generate"}),
    "swap.fraction": (0.3, {"swap"}),
    "training.learning_rate": (1e-3, LEARN),
    "training.decay_per_iteration": (1.0, LEARN),
    "training.beta": (0.2, TRAIN),
    "training.sft_weight": (1.0, TRAIN),
    "training.lora_rank": (8, LEARN),
    "training.batch_size": (64, LEARN),
    "training.micro_batch_size": (2, LEARN),
    "training.epochs": (2, LEARN),
    "training.schedule": ("cosine", LEARN),
    "training.max_grad_norm": (0.5, LEARN),
    "training.max_length": (512, {"compute_reference", *LEARN}),
    "training.start_from": ("fresh", LEARN),
    "consistency.learning_rate_factor": (0.5, {"train_consistency"}),
    "merge.method": ("linear", {"ties_merge"}),
    "merge.space": ("delta", {"ties_merge"}),
    "merge.weights": ((1.0, 0.5), {"ties_merge"}),
    "merge.density": (0.2, {"ties_merge"}),
    "merge.majority_sign_method": ("total", {"ties_merge"}),
    "evaluation.bootstrap_samples": (200, EVALUATION),
    "evaluation.confidence": (0.9, EVALUATION),
    "evaluation.min_parse_rate": (0.1, {"evaluate"}),
    "evaluation.branches": ("val", {"evaluate", "keep_anchors"}),
    "evaluation.also": (None, FLOW),  # stages of its own, see tests/flows/test_also.py
    "judge.rows": (10, {"judge", "judge_openai"}),
    "judge.anchors": (10, {"keep_anchors"}),
    "judge.round_trip.holdout_fraction": (0.3, {"fit_judge"}),
    "judge.vlm.from_run": (None, FLOW),  # another stage, see tests/flows/test_vlm_judge.py
    "judge.vlm.prompt": ("short", FLOW),  # there is no such judge in this recipe
    "judge.vlm.rows": (10, FLOW),
    "judge.vlm.max_new_tokens": (9, FLOW),
    "judge.openai.model": ("gpt-4o-2024-08-06", {"judge_openai"}),
    "judge.openai.max_tokens": (99, {"judge_openai"}),
    "judge.openai.temperature": (None, {"judge_openai"}),
    "judge.openai.rubric": ("short", {"judge_openai"}),
    "faithfulness.rows": (10, {"probe_faithfulness"}),
    "faithfulness.faults": ({"blur": ("blurred",)}, {"probe_faithfulness"}),
    "ablation.rows": (("dpo",), FLOW),
    "ablation.sft_learning_rate": (1e-4, {"train_sft"}),
    "grid_search.learning_rate": ((1e-4,), FLOW),
    "grid_search.beta": ((0.3,), FLOW),
    "grid_search.lora_rank": ((4,), FLOW),
    "grid_search.metric": ("plcc_unfitted", FLOW),
    "merge_ablation.iteration": (3, FLOW),
    "merge_ablation.merges": ((Merge(density=0.1),), FLOW),
    "runtime.store": ("elsewhere", set()),
    "runtime.min_memory_gb": (3.0, set()),
    "runtime.openai.base_url": ("http://localhost:1/v1", set()),
    "runtime.openai.concurrency": (2, set()),
    "runtime.openai.timeout_s": (2.0, set()),
    "runtime.openai.max_retries": (2, set()),
    "runtime.openai.usd_per_million_input_tokens": (1.0, set()),
    "runtime.openai.usd_per_million_output_tokens": (1.0, set()),
    "runtime.openai.budget_usd": (1.0, set()),
    "runtime.generation_server.base_url": ("http://localhost:1/v1", set()),
    "runtime.generation_server.model": ("elsewhere", set()),
    "runtime.generation_server.adapters": ("elsewhere", set()),
    "runtime.generation_server.compare_pixels": (False, set()),
    "runtime.generation_server.concurrency": (2, set()),
    "runtime.generation_server.timeout_s": (2.0, set()),
    "runtime.generation_server.max_retries": (2, set()),
    "runtime.device": ("cpu", set()),
    "runtime.generation_batch_size": (2, set()),
    "runtime.shard_rows": (2, set()),
    "runtime.gradient_checkpointing": (False, set()),
    "runtime.checkpoint_every": (2, set()),
    "runtime.training_processes": (4, set()),
    "runtime.fsdp": (True, set()),
    "runtime.decode_workers": (2, set()),
    "runtime.pixel_cache": ("pixels", set()),
    "runtime.pixel_cache_gb": (2.0, set()),
    "runtime.trackers": (("mlflow",), set()),
    "runtime.usd_per_device_hour": (2.0, set()),
    "runtime.dask": ("tcp://elsewhere:8786", set()),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fields of a recipe over forty small images."""
    folder = tmp_path_factory.mktemp("data")
    table = write_dataset(folder, seed=5, train=100, val=30, test=30)
    rows = pd.read_csv(table)
    for column, same in {"file": "image", "mos": "score", "source": "image"}.items():
        rows[column] = rows[same]
    rows.to_csv(table, index=False)
    koniq10k = rows[["image", "score", "split"]].set_axis(["image_name", "MOS", "set"], axis=1)
    koniq10k.to_csv(folder / "koniq10k.csv", index=False)
    for split in ("train", "val", "test"):
        names = rows.loc[rows["split"] == split, "image"]
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    return {
        "name": "r",
        "iterations": 3,
        "data": {"table": str(table), "max_near_duplicate_fraction": 1.0},  # else no stage looks for them
        "model": {"id": "owner/model", "revision": "a" * 40},
        "judge": {"openai": {"model": "a-judge"}},
        "runtime": {"store": str(folder / "store"), "training_processes": 2},  # FSDP needs more than one
    }


@pytest.fixture(scope="module")
def stages_of_base(base: dict[str, Any]) -> dict[str, Planned]:
    return planned(FLOWS, RECIPE, base)


def test_the_table_knows_every_field_of_the_recipe_and_no_other() -> None:
    assert set(leaves(RECIPE)) - {"method"} == set(FIELDS)  # which is always the same


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_keys_of_its_stages_and_no_others(
    field: str,
    base: dict[str, Any],
    stages_of_base: dict[str, Planned],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (value, stages), before = FIELDS[field], stages_of_base
    data = Path(base["data"]["table"]).parent
    if field == "data.table":  # elsewhere, but the same
        shutil.copytree(data, tmp_path / "data")
        value = str(tmp_path / "data" / "scores.csv")
    elif field == "data.images":
        value = str(data)
    elif field.startswith("data.split_lists."):
        value = str(data / value)
    elif field == "evaluation.also":
        value = [{"name": "other", "table": base["data"]["table"]}]
    elif field == "judge.openai.rubric":
        for name in ("paper", "short"):
            (tmp_path / f"{name}.txt").write_text(f"{name}: {{score}} {{text}}")
        monkeypatch.setattr(rubric, "FOLDER", tmp_path)
        before = planned(FLOWS, RECIPE, base)
    moved = changed(RECIPE, base, "data.table", str(data / "koniq10k.csv")) if field == "data.dataset" else base
    after = planned(FLOWS, RECIPE, changed(RECIPE, moved, field, value))
    assert len(before.keys() & after.keys()) > 20
    assert changed_stages(before, after) == stages


def test_nothing_under_runtime_changes_a_key() -> None:
    assert all(not stages for field, (_, stages) in FIELDS.items() if field.startswith("runtime."))


def test_stages_of_one_name_are_one_stage() -> None:
    """Two stages of one name and the same arguments would take each other's artifacts."""
    modules: dict[str, str] = {}
    for found in pkgutil.walk_packages(tasks.__path__, "tasks."):
        for stage in vars(importlib.import_module(found.name)).values():
            if (
                isinstance(stage, Stage) and stage.name == "report"
            ):  # of a method each, told apart by the recipe's `method`
                assert "settings" in stage.signature.parameters
            elif isinstance(stage, Stage):
                assert modules.setdefault(stage.name, stage.body.__module__) == stage.body.__module__
    assert len(modules) > 15


def test_where_a_model_lies_and_what_it_is_called_is_not_in_the_key_but_what_it_is() -> None:
    ref = ModelRef(name="a", location="/a", revision=None, fingerprint="f", dtype="float32", resize_px=9)
    key = artifact_key("s", 1, {"model": ref})
    for same in ({"name": "b"}, {"location": "/b"}, {"revision": "c" * 40}):
        assert artifact_key("s", 1, {"model": ref.model_copy(update=same)}) == key
    adapter = ArtifactRef(stage="train_score", key="k")
    others: list[dict[str, Any]] = [
        {"fingerprint": "g"}, {"dtype": "bfloat16"}, {"resize_px": 8}, {"max_tiles": 2}, {"adapter": adapter},
        {"folded": (adapter,)},
    ]  # fmt: skip
    assert {next(iter(other)) for other in others} | {"name", "location", "revision"} == set(ModelRef.model_fields)
    found = {artifact_key("s", 1, {"model": ref.model_copy(update=other)}) for other in others}
    assert len(found | {key}) == len(others) + 1


def test_the_folder_of_the_photographs_is_not_in_the_key_but_their_table_is() -> None:
    def key(folder: str, table: str) -> str:
        ref = ArtifactRef(stage="discretize", key=table)
        image_set = ImageSet(table=ref, folder=folder, max_megapixels=1.0)
        return artifact_key("s", 1, {"image_set": image_set})

    assert key("/a", "k") == key("/b", "k") != key("/a", "l")


def test_stage_version_name_and_argument_names_are_in_the_key() -> None:
    key = artifact_key("swap", 1, {"a": 1})
    others = [
        artifact_key("swap", 2, {"a": 1}),
        artifact_key("judge", 1, {"a": 1}),
        artifact_key("swap", 1, {"b": 1}),
        artifact_key("swap", 1, {"a": 2}),
        artifact_key("swap", 1, {"a": "1"}),
        artifact_key("swap", 1, {"a": None}),
        artifact_key("swap", 1, {"a": ArtifactRef(stage="x", key="k")}),
        artifact_key("swap", 1, {"a": ArtifactRef(stage="y", key="k")}),
    ]
    assert len({key, *others}) == 1 + len(others)


def test_the_text_of_a_prompt_is_in_the_key() -> None:
    look, defects = (Criterion(value=value, score=value, scale="0 to 9") for value in ("look", "defects"))
    short, long = (Prompt(name="p", text=text, criterion=look) for text in ("Rate it.", "Rate it!"))
    assert artifact_key("s", 1, {"prompt": short}) != artifact_key("s", 1, {"prompt": long})
    renamed = Prompt(name="q", text="Rate it.", criterion=defects)  # other words for the judge and the report
    assert artifact_key("s", 1, {"prompt": short}) == artifact_key("s", 1, {"prompt": renamed})


def test_canonical_json_is_one_text_for_equal_values_and_refuses_what_is_none() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'
    assert key_fields({"weights": (1.0, 2.0)}) == {"weights": [1.0, 2.0]}
    for bad in (float("nan"), float("inf"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            canonical_json(bad)


CHILD = """
from pipeline_lib.methods.self_improve.recipe import Merge, SelfImproveRecipe as Recipe
from pipeline_lib.store import ArtifactRef, artifact_key
recipe = Recipe.model_validate({"name": "r", "data": {"table": "t.csv"}, "model": {"id": "bundled"}})
print(artifact_key("s", 1, {"recipe": recipe, "ref": ArtifactRef(stage="x", key="k"), "fields": {"b": 1, "a": 2}}))
"""


def test_keys_are_the_same_in_every_process() -> None:
    import os

    found = {
        subprocess.run(
            [sys.executable, "-c", CHILD], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(found) == 1
