"""Recipes: every wrong field is named at once, paths are relative to the file, defaults are the paper's."""

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config.load import load_recipe, parse_recipe
from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe

MINIMAL: dict[str, Any] = {"name": "r", "data": {"table": "t.csv"}, "model": {"id": "bundled"}}


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_defaults_are_the_settings_of_the_paper() -> None:
    recipe = parse_recipe(MINIMAL)
    training = recipe.training
    assert (training.learning_rate, training.decay_per_iteration, training.beta) == (5e-5, 0.8, 0.1)
    assert (training.lora_rank, training.batch_size, training.sft_weight) == (64, 128, 0)
    assert (recipe.merge.weights, recipe.merge.density, recipe.merge.majority_sign_method) == ((1, 1), 0.5, "frequency")
    assert (recipe.iterations, recipe.prompt, recipe.model.max_new_tokens, recipe.model.resize_px) == (
        4, "aesthetics", 256, 448,
    )  # fmt: skip


def test_every_wrong_field_is_named_in_one_error() -> None:
    wrong = MINIMAL | {
        "iterations": 0,
        "training": {"learnig_rate": 1.0, "beta": -1, "batch_size": 10, "micro_batch_size": 4},
        "model": {"revision": "main"},
        "data": {"table": "t.csv", "image_colum": "x"},
    }
    with pytest.raises(RecipeError) as caught:
        parse_recipe(wrong, source="my.yaml")
    text = str(caught.value)
    assert text.startswith("my.yaml: 6 problem(s)")
    for part in (
        "iterations: ",
        "training.learnig_rate: unknown field; known here: lora_rank, ",
        "training.beta: Input should be greater than 0, found -1",
        "model.id: Value error, give either model.id or model.from_run",
        "model.revision: must be a commit of 40 hex digits",
        "data.image_colum: unknown field; known here: dataset, table, images, image_column",
    ):
        assert part in text
    with pytest.raises(RecipeError, match=r"merge_ablation.merges.0.densty: unknown field; known here: method, space"):
        parse_recipe(MINIMAL | {"merge_ablation": {"merges": [{"densty": 0.1}]}})
    with pytest.raises(RecipeError, match="micro_batch_size 4 must divide batch_size 10"):
        parse_recipe(MINIMAL | {"training": {"batch_size": 10}})


@pytest.mark.parametrize(
    ("training", "runtime", "message"),
    [
        ({}, {"training_processes": 3}, "batch_size 128 is 32 micro-batch.es. of 4, which 3 processes"),
        ({"batch_size": 8, "micro_batch_size": 8}, {"training_processes": 2}, "is 1 micro-batch.es. of 8"),
        ({}, {"fsdp": True}, "set runtime.training_processes"),
    ],
)
def test_processes_that_cannot_share_a_batch_are_refused(
    training: dict[str, int], runtime: dict[str, int], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(MINIMAL | {"training": training, "runtime": runtime})
    assert parse_recipe(MINIMAL | {"runtime": {"training_processes": 2, "fsdp": True}}).runtime.fsdp


@pytest.mark.parametrize("name", ["", "Upper", "../up", "a b", ".hidden"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="name: "):
        parse_recipe(MINIMAL | {"name": name})


def test_paths_in_a_file_are_relative_to_it_and_those_of_overrides_are_not(tmp_path: Path) -> None:
    path = write(tmp_path, "name: r\nprompt: aesthetics\ndata: {table: t.csv, images: photos}\nmodel: {id: bundled}\n")
    recipe = load_recipe(path)
    assert (recipe.data.table, recipe.data.images) == (str(tmp_path / "t.csv"), str(tmp_path / "photos"))
    assert recipe.prompt == "aesthetics"  # the name of a shipped one is no path
    recipe = load_recipe(path, {"data.table": "other.csv", "training.beta": 0.3, "runtime.device": "cpu"})
    assert (recipe.data.table, recipe.training.beta, recipe.runtime.device) == ("other.csv", 0.3, "cpu")
    lists = "name: r\nprompt: mine.txt\ndata: {table: s3://b/t.csv, split_lists: {test: t.txt}}\nmodel: {id: bundled}\n"
    recipe = load_recipe(write(tmp_path, lists))
    assert (recipe.data.table, recipe.data.split_lists.test) == ("s3://b/t.csv", str(tmp_path / "t.txt"))
    assert recipe.prompt == str(tmp_path / "mine.txt")
    absolute = write(tmp_path, "name: r\ndata: {table: /t.csv}\nmodel: {id: bundled}\n")
    assert load_recipe(absolute).data.table == "/t.csv"


def test_a_file_that_is_no_recipe_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.yaml.*No such file"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="found list"):
        load_recipe(write(tmp_path, "- a\n"))
    with pytest.raises(RecipeError, match="is not valid YAML"):
        load_recipe(write(tmp_path, "a: [b\n"))
    with pytest.raises(RecipeError, match=r"--set name\.x"):
        load_recipe(write(tmp_path, "name: r\n"), {"name.x": 1})


def test_a_recipe_is_frozen_and_survives_json() -> None:
    recipe = parse_recipe(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    assert SelfImproveRecipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).name


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_the_fields_of_an_earlier_version_are_completed_and_nothing_else(path: Path) -> None:
    recipe = load_recipe(path)
    fields = recipe.run_fields()
    assert recipe.completed(fields) == fields
    without = {**fields, "model": {**fields["model"]}}
    del without["seed"], without["model"]["resize_px"]
    default = type(recipe).model_validate(without)
    assert recipe.completed(without) == {**fields, "seed": 0, "model": default.model.model_dump(mode="json")}
    assert recipe.completed({**fields, "no_field": 1}) == {**fields, "no_field": 1}
