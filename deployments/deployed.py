"""The flows as they are deployed: the recipe is a form in the UI, and stages that need the model go to the GPU pool."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.experiments.ablation import ablation as run_ablation
from flows.predict import predict as run_predict
from flows.self_improve import self_improve as run_self_improve
from pipeline_lib.config.base import Runtime
from pipeline_lib.config.load import load_recipe_of, of_kind, parse_recipe
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef
from tasks.stage.gpu_pool import compute_here

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "self_improve"

_names = sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))
ShippedRecipe = StrEnum("ShippedRecipe", {name: name for name in _names})  # type: ignore[misc]


def _without_traceback(record: logging.LogRecord) -> bool:
    """An error for people says it all; Prefect would write four tracebacks of sixty lines around it."""
    if record.exc_info and isinstance(record.exc_info[1], WhyScoreError):
        record.exc_info = None
    return True


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_without_traceback)


def _run_name() -> str:
    parameters = flow_run.parameters
    recipe = parameters["recipe"]
    name = recipe.name if isinstance(recipe, SelfImproveRecipe) else str(recipe)
    return str((parameters.get("overrides") or {}).get("name", name))


@flow(name="self_improve", flow_run_name=_run_name)
def self_improve(
    recipe: ShippedRecipe | SelfImproveRecipe,
    overrides: dict[str, Any] = {},  # noqa: B006 - never changed; None would be shown as a choice of types in the form
    store: str | None = None,
) -> ArtifactRef:
    """Self-train a vision-language model on images and scores, and explain every score.

    Args:
        recipe: A shipped recipe as it is, or your own, field by field.
        overrides: Fields to change, e.g. {"data.table": "s3://photos/scores.csv", "name": "mine", "iterations": 2}.
        store: Where artifacts are kept: s3://bucket/prefix or a folder that all workers share; empty: the recipe's.
    """
    finished: ArtifactRef = run_self_improve.fn(chosen_recipe(recipe, overrides, store))
    return finished


@flow(name="ablation", flow_run_name=_run_name)
def ablation(
    recipe: ShippedRecipe | SelfImproveRecipe,
    overrides: dict[str, Any] = {},  # noqa: B006 - never changed; None would be shown as a choice of types in the form
    store: str | None = None,
) -> ArtifactRef:
    """Compare what the method needs: supervised and preference training, with and without iterating (Table 3).

    Args:
        recipe: A shipped recipe as it is, or your own, field by field.
        overrides: Fields to change, e.g. {"ablation.rows": ["dpo", "iterative_dpo"]}.
        store: Where artifacts are kept: s3://bucket/prefix or a folder that all workers share; empty: the recipe's.
    """
    finished: ArtifactRef = run_ablation.fn(chosen_recipe(recipe, overrides, store))
    return finished


@flow(name="predict", flow_run_name=_run_name)
def predict(
    recipe: ShippedRecipe | SelfImproveRecipe,
    images: list[str],
    out: str | None = None,
    overrides: dict[str, Any] = {},  # noqa: B006 - never changed; None would be shown as a choice of types in the form
    store: str | None = None,
) -> ArtifactRef:
    """Score and explain new images with the newest model of a finished run.

    Args:
        recipe: The recipe of the run.
        images: Image files, folders or tables, local to the workers or s3://.
        out: File for the predictions (.parquet or .csv); empty: only the store.
        overrides: Fields to change, e.g. {"name": "mine"} for the run of that name.
        store: The store of the run: s3://bucket/prefix or a folder that all workers share; empty: the recipe's.
    """
    predicted: ArtifactRef = run_predict.fn(chosen_recipe(recipe, overrides, store), images, out)
    return predicted


@flow(name="gpu_stage")
def gpu_stage(stage: str, key: str, label: str, runtime: Runtime, arguments: dict[str, Any]) -> ArtifactRef:
    """One stage of another flow, on a GPU. Started by flows, not by people."""
    return compute_here(stage, key, runtime, arguments, label)


def chosen_recipe(
    recipe: "ShippedRecipe | SelfImproveRecipe", overrides: dict[str, Any], store: str | None
) -> SelfImproveRecipe:
    """The recipe that the form describes; raises `RecipeError` naming every wrong field."""
    changes = dict(overrides)
    if store:
        changes["runtime.store"] = store
    if not isinstance(recipe, SelfImproveRecipe):
        return load_recipe_of(SelfImproveRecipe, RECIPES / f"{recipe}.yaml", changes)
    fields = recipe.model_dump(mode="json")
    return of_kind(SelfImproveRecipe, parse_recipe(fields, changes, source="recipe of this run"))
