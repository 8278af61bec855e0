"""Which recipe field changes the key of which stage: every field stands in the table below, or the test fails."""

import operator
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Criterion, Prompt
from pipeline_lib.methods.self_improve.recipe import Merge, SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, artifact_key, canonical_json
from pipeline_lib.store.key import key_fields
from pipeline_lib.vlm.model_ref import ModelRef

# The sections that each stage is handed, beside the artifacts of the stages before it (see flows/self_improve.py).
HANDED = {
    "check_model": ("model", "prompt"),
    "discretize": ("data", "seed"),
    "generate": ("generation", "model", "prompt", "seed"),
    "swap": ("swap", "seed"),
    "compute_reference": ("training.max_length", "model", "prompt"),
    "train_score": ("training", "model", "prompt", "seed"),
    "train_sft": ("training", "model", "prompt", "seed"),
    "train_consistency": ("training", "consistency", "model", "prompt", "seed"),
    "ties_merge": ("merge", "model", "seed"),
    "evaluate": ("evaluation", "model", "prompt", "seed"),
    "fit_judge": ("judge.round_trip", "seed"),
    "judge": ("judge.rows", "evaluation", "seed"),
    "judge_openai": ("judge.openai", "judge.rows", "evaluation", "seed"),
    "probe_faithfulness": ("faithfulness", "evaluation", "model", "prompt", "seed"),
}
TRAIN = {"train_score", "train_consistency"}
LEARN = {*TRAIN, "train_sft"}
MODEL = {"check_model", "generate", "compute_reference", *LEARN, "ties_merge", "evaluate", "probe_faithfulness"}
PROMPT = {"check_model", "generate", "compute_reference", *LEARN, "evaluate", "probe_faithfulness"}
SEED = {
    "discretize", "generate", "swap", *LEARN, "ties_merge", "evaluate", "fit_judge", "judge", "judge_openai",
    "probe_faithfulness",
}  # fmt: skip
EVALUATION = {"evaluate", "judge", "judge_openai", "probe_faithfulness"}
ONLY_WHERE: set[str] = set()
FLOW: set[str] = set()  # read by the flow, which hands on what it chooses: a number of rows, a cell, a merge, a text

# field -> another value, and the stages whose key it changes by itself
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "name": ("another", set()),
    "seed": (5, SEED),
    "iterations": (2, set()),
    "prompt": ("aesthetics_short", PROMPT),
    "data.dataset": ("koniq10k", {"discretize"}),
    "data.table": ("elsewhere.csv", ONLY_WHERE),
    "data.images": ("elsewhere", ONLY_WHERE),
    "data.image_column": ("file", {"discretize"}),
    "data.score_column": ("mos", {"discretize"}),
    "data.split_column": (None, {"discretize"}),
    "data.group_column": ("source", {"discretize"}),
    "data.split_lists.train": ("train.txt", ONLY_WHERE),  # what they say is in the fingerprint of the rows
    "data.split_lists.val": ("val.txt", ONLY_WHERE),
    "data.split_lists.test": ("test.txt", ONLY_WHERE),
    "data.val_fraction": (0.2, {"discretize"}),
    "data.test_fraction": (0.2, {"discretize"}),
    "data.max_unreadable_fraction": (0.2, {"discretize"}),
    "data.max_megapixels": (5.0, {"discretize"}),
    "model.id": ("owner/name", ONLY_WHERE),
    "model.revision": ("b" * 40, MODEL),  # the fingerprint of a model on the hub
    "model.dtype": ("float32", MODEL),
    "model.resize_px": (64, MODEL),
    "model.max_tiles": (4, MODEL),
    "model.max_new_tokens": (9, MODEL),
    "generation.fraction": (0.5, {"generate"}),
    "generation.redraw": (False, {"generate"}),
    "generation.min_distance": (2, {"generate"}),
    "generation.engine": ("openai", {"generate"}),
    "swap.fraction": (0.3, {"swap"}),
    "training.learning_rate": (1e-3, LEARN),
    "training.decay_per_iteration": (1.0, LEARN),
    "training.beta": (0.2, LEARN),
    "training.sft_weight": (1.0, LEARN),
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
    "evaluation.min_parse_rate": (0.1, EVALUATION),
    "evaluation.branches": ("val", FLOW),
    "judge.rows": (10, {"judge", "judge_openai"}),
    "judge.anchors": (10, FLOW),
    "judge.round_trip.holdout_fraction": (0.3, {"fit_judge"}),
    "judge.openai.model": ("gpt-4o-2024-08-06", {"judge_openai"}),
    "judge.openai.max_tokens": (99, {"judge_openai"}),
    "judge.openai.temperature": (None, {"judge_openai"}),
    "judge.openai.rubric": ("short", FLOW),
    "faithfulness.rows": (10, {"probe_faithfulness"}),
    "ablation.rows": (("dpo",), FLOW),
    "ablation.sft_learning_rate": (1e-4, FLOW),
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
    "runtime.dask": ("tcp://elsewhere:8786", set()),
}
BASE: dict[str, Any] = {
    "name": "r",
    "data": {"table": "t.csv"},
    "model": {"id": "owner/model", "revision": "a" * 40},
    "runtime": {"training_processes": 2},  # one alone has nobody to share weights with
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def model_ref(recipe: SelfImproveRecipe, adapter: ArtifactRef | None = None) -> ModelRef:
    from pipeline_lib.vlm.model_ref import resolve_model

    ref = resolve_model(recipe.model)
    return ref.with_adapter(adapter) if adapter else ref


def keys(recipe: SelfImproveRecipe) -> dict[str, str]:
    """The key of each stage; the artifacts of earlier stages are held fixed, so that each field shows alone."""
    from pipeline_lib.methods.self_improve.prompt import load_prompt

    earlier = ArtifactRef(stage="generate", key="0" * 64)
    image_set = ImageSet.of(recipe.data, ArtifactRef(stage="discretize", key="1" * 64), recipe.runtime)
    arguments: dict[str, dict[str, Any]] = {}
    for stage, sections in HANDED.items():
        arguments[stage] = {"earlier": earlier, "image_set": image_set, "iteration": 1}
        for section in sections:
            value: Any = operator.attrgetter(section)(recipe)
            if section == "prompt":
                value = load_prompt(recipe.prompt)
            if section == "model":
                value = model_ref(recipe)
            arguments[stage][section] = value
    return {stage: artifact_key(stage, 1, given) for stage, given in arguments.items()}


def changed(field: str, value: Any) -> SelfImproveRecipe:
    fields = SelfImproveRecipe.model_validate(BASE).model_dump()
    *parents, leaf = field.split(".")
    section = fields
    for parent in parents:
        section = section[parent]
    assert value is None or section[leaf] != value, f"{field}: give a value that differs from the default"
    section[leaf] = value
    return SelfImproveRecipe.model_validate(fields)


def test_the_table_knows_every_field_of_the_recipe_and_no_other() -> None:
    assert set(leaves(SelfImproveRecipe)) == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_keys_of_its_stages_and_no_others(field: str) -> None:
    value, stages = FIELDS[field]
    before, after = keys(SelfImproveRecipe.model_validate(BASE)), keys(changed(field, value))
    assert {stage for stage in HANDED if before[stage] != after[stage]} == stages


def test_nothing_under_runtime_changes_a_key() -> None:
    assert all(not stages for field, (_, stages) in FIELDS.items() if field.startswith("runtime."))


def test_the_table_of_sections_is_that_of_the_stages() -> None:
    """Each stage takes the sections that `HANDED` says, in every flow; a section that a stage takes is in its key."""
    import ast
    from pathlib import Path

    names = {name: name for name in ("training", "merge", "model", "prompt", "seed")}
    names |= dict.fromkeys(("base", "score_model", "consistency_model"), "model")
    found: dict[str, set[str]] = {}
    for path in sorted((Path(__file__).parents[2] / "flows").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in HANDED):
                continue
            sections = set()
            for argument in call.args:
                text = ast.unparse(argument).removeprefix("setting.")
                section = text.removeprefix("recipe.") if text.startswith("recipe.") else names.get(text)
                if section and section != "runtime":
                    sections.add(section)
            assert sections == found.setdefault(call.func.id, sections), f"{path.name}: {call.func.id}"
    assert found == {stage: set(sections) for stage, sections in HANDED.items()}


def test_where_a_model_lies_and_what_it_is_called_is_not_in_the_key_but_what_it_is() -> None:
    ref = ModelRef(
        name="a", location="/a", revision=None, fingerprint="f", dtype="float32", resize_px=9, max_new_tokens=8
    )
    key = artifact_key("s", 1, {"model": ref})
    for same in ({"name": "b"}, {"location": "/b"}, {"revision": "c" * 40}):
        assert artifact_key("s", 1, {"model": ref.model_copy(update=same)}) == key
    adapter = ArtifactRef(stage="train_score", key="k")
    others: list[dict[str, Any]] = [
        {"fingerprint": "g"}, {"dtype": "bfloat16"}, {"resize_px": 8}, {"max_tiles": 2}, {"max_new_tokens": 9},
        {"adapter": adapter},
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
from pipeline_lib.methods.self_improve.recipe import Merge, Recipe
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
