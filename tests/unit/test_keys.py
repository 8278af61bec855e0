"""Which recipe field changes the key of which stage: every field stands in the table below, or the test fails."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline_lib.data.photographs import Photographs
from pipeline_lib.recipe import Recipe
from pipeline_lib.store import ArtifactRef, artifact_key, canonical_json
from pipeline_lib.store.key import key_fields
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt

# The sections that each stage is handed, beside the artifacts of the stages before it (see flows/self_improve.py).
HANDED = {
    "check_model": ("model", "prompt"),
    "discretize": ("data", "seed"),
    "generate": ("generation", "model", "prompt", "seed"),
    "swap": ("swap", "seed"),
    "train_score": ("training", "model", "prompt", "seed"),
    "train_consistency": ("training", "consistency", "model", "prompt", "seed"),
    "ties_merge": ("merge", "model"),
    "evaluate": ("evaluation", "model", "prompt", "seed"),
    "fit_judge": ("judge", "seed"),
    "judge": ("judge", "evaluation", "seed"),
}
TRAIN = {"train_score", "train_consistency"}
MODEL = {"check_model", "generate", *TRAIN, "ties_merge", "evaluate"}
PROMPT = {"check_model", "generate", *TRAIN, "evaluate"}
SEED = {"discretize", "generate", "swap", *TRAIN, "evaluate", "fit_judge", "judge"}
ONLY_WHERE: set[str] = set()

# field -> another value, and the stages whose key it changes by itself
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "name": ("another", set()),
    "seed": (5, SEED),
    "iterations": (2, set()),
    "prompt": ("aesthetics_short", PROMPT),
    "data.table": ("elsewhere.csv", ONLY_WHERE),
    "data.images": ("elsewhere", ONLY_WHERE),
    "data.image_column": ("file", {"discretize"}),
    "data.score_column": ("mos", {"discretize"}),
    "data.split_column": (None, {"discretize"}),
    "data.group_column": ("source", {"discretize"}),
    "data.val_fraction": (0.2, {"discretize"}),
    "data.test_fraction": (0.2, {"discretize"}),
    "data.max_unreadable_fraction": (0.2, {"discretize"}),
    "data.max_megapixels": (5.0, {"discretize"}),
    "model.id": ("owner/name", ONLY_WHERE),
    "model.revision": ("b" * 40, MODEL),  # the fingerprint of a model on the hub
    "model.dtype": ("float32", MODEL),
    "model.resize_px": (64, MODEL),
    "model.max_new_tokens": (9, MODEL),
    "generation.fraction": (0.5, {"generate"}),
    "generation.min_distance": (2, {"generate"}),
    "swap.fraction": (0.3, {"swap"}),
    "training.learning_rate": (1e-3, TRAIN),
    "training.decay_per_iteration": (1.0, TRAIN),
    "training.beta": (0.2, TRAIN),
    "training.sft_weight": (1.0, TRAIN),
    "training.lora_rank": (8, TRAIN),
    "training.batch_size": (64, TRAIN),
    "training.micro_batch_size": (2, TRAIN),
    "training.epochs": (2, TRAIN),
    "training.schedule": ("cosine", TRAIN),
    "training.max_grad_norm": (0.5, TRAIN),
    "training.max_length": (512, TRAIN),
    "training.start_from": ("fresh", TRAIN),
    "consistency.learning_rate_factor": (0.5, {"train_consistency"}),
    "merge.weights": ((1.0, 0.5), {"ties_merge"}),
    "merge.density": (0.2, {"ties_merge"}),
    "merge.majority_sign_method": ("total", {"ties_merge"}),
    "evaluation.bootstrap_samples": (200, {"evaluate", "judge"}),
    "evaluation.confidence": (0.9, {"evaluate", "judge"}),
    "evaluation.min_parse_rate": (0.1, {"evaluate", "judge"}),
    "judge.kind": (None, set()),  # one kind so far
    "judge.holdout_fraction": (0.3, {"fit_judge", "judge"}),
    "judge.rows": (10, {"fit_judge", "judge"}),
    "runtime.store": ("elsewhere", set()),
    "runtime.device": ("cpu", set()),
    "runtime.generation_batch_size": (2, set()),
    "runtime.shard_rows": (2, set()),
    "runtime.gradient_checkpointing": (False, set()),
    "runtime.checkpoint_every": (2, set()),
}
BASE: dict[str, Any] = {
    "name": "r",
    "data": {"table": "t.csv"},
    "model": {"id": "owner/model", "revision": "a" * 40},
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def model_ref(recipe: Recipe, adapter: ArtifactRef | None = None) -> ModelRef:
    from pipeline_lib.vlm.model_ref import resolve_model

    ref = resolve_model(recipe.model)
    return ref.with_adapter(adapter) if adapter else ref


def keys(recipe: Recipe) -> dict[str, str]:
    """The key of each stage; the artifacts of earlier stages are held fixed, so that each field shows alone."""
    from pipeline_lib.vlm.prompt import load_prompt

    earlier = ArtifactRef(stage="generate", key="0" * 64)
    photographs = Photographs.of(recipe.data, ArtifactRef(stage="discretize", key="1" * 64))
    arguments: dict[str, dict[str, Any]] = {}
    for stage, sections in HANDED.items():
        arguments[stage] = {"earlier": earlier, "photographs": photographs, "iteration": 1}
        for section in sections:
            value: Any = getattr(recipe, section)
            if section == "prompt":
                value = load_prompt(recipe.prompt)
            if section == "model":
                value = model_ref(recipe)
            arguments[stage][section] = value
    return {stage: artifact_key(stage, 1, given) for stage, given in arguments.items()}


def changed(field: str, value: Any) -> Recipe:
    fields = Recipe.model_validate(BASE).model_dump()
    *parents, leaf = field.split(".")
    section = fields
    for parent in parents:
        section = section[parent]
    assert value is None or section[leaf] != value, f"{field}: give a value that differs from the default"
    section[leaf] = value
    return Recipe.model_validate(fields)


def test_the_table_knows_every_field_of_the_recipe_and_no_other() -> None:
    assert set(leaves(Recipe)) == set(FIELDS)


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "judge.kind"])
def test_a_field_changes_the_keys_of_its_stages_and_no_others(field: str) -> None:
    value, stages = FIELDS[field]
    before, after = keys(Recipe.model_validate(BASE)), keys(changed(field, value))
    assert {stage for stage in HANDED if before[stage] != after[stage]} == stages


def test_nothing_under_runtime_changes_a_key() -> None:
    assert all(not stages for field, (_, stages) in FIELDS.items() if field.startswith("runtime."))


def test_the_table_of_sections_is_that_of_the_stages() -> None:
    """Each stage takes the sections that `HANDED` says; a section that a stage takes is in its key."""
    import ast
    from pathlib import Path

    flow = ast.parse((Path(__file__).parents[2] / "flows" / "self_improve.py").read_text())
    names = {"training": "training", "base": "model", "model": "model", "prompt": "prompt", "seed": "seed"}
    found: dict[str, set[str]] = {}
    for call in ast.walk(flow):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            continue
        stage = call.func.id
        if stage not in HANDED:
            continue
        for argument in call.args:
            text = ast.unparse(argument)
            section = text.removeprefix("recipe.") if text.startswith("recipe.") else names.get(text)
            if section and section != "runtime":
                found.setdefault(stage, set()).add(section)
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
        {"fingerprint": "g"}, {"dtype": "bfloat16"}, {"resize_px": 8}, {"max_new_tokens": 9}, {"adapter": adapter},
    ]  # fmt: skip
    assert {next(iter(other)) for other in others} | {"name", "location", "revision"} == set(ModelRef.model_fields)
    found = {artifact_key("s", 1, {"model": ref.model_copy(update=other)}) for other in others}
    assert len(found | {key}) == len(others) + 1


def test_the_folder_of_the_photographs_is_not_in_the_key_but_their_table_is() -> None:
    def key(folder: str, table: str) -> str:
        ref = ArtifactRef(stage="discretize", key=table)
        photographs = Photographs(table=ref, folder=folder, max_megapixels=1.0)
        return artifact_key("s", 1, {"photographs": photographs})

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
    short, long = Prompt(name="p", text="Rate it."), Prompt(name="p", text="Rate it!")
    assert artifact_key("s", 1, {"prompt": short}) != artifact_key("s", 1, {"prompt": long})


def test_canonical_json_is_one_text_for_equal_values_and_refuses_what_is_none() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'
    assert key_fields({"weights": (1.0, 2.0)}) == {"weights": [1.0, 2.0]}
    for bad in (float("nan"), float("inf"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            canonical_json(bad)


CHILD = """
from pipeline_lib.recipe import Recipe
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
