"""The flows as they are deployed: the recipe is a form in the UI, and stages that need the model go to the GPU pool.

Each method has a flow, made at first use: `deployments/deployed.py:<method>`, `<method>_control` for its control, and
`<method>_predict` for a method with a flow in `flows/predictions/`.
"""

import logging
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, State
from prefect import flow as prefect_flow
from prefect.runtime import flow_run
from prefect.states import Completed

from deployments.own_recipes import PastedRecipe, is_own, name_to_show, own_recipes, read_own, read_pasted
from flows.experiments.ablation import ablation as run_ablation
from flows.predict import predict as run_predict
from flows.seeds import seeds as run_seeds
from pipeline_lib.config.base import BaseRecipe, Runtime
from pipeline_lib.config.load import (
    SHIPPED,
    Recipe,
    load_recipe_of,
    method_names,
    of_kind,
    parse_recipe,
    recipe_class,
)
from pipeline_lib.config.seeds import check_seeds, recipe_of_seed
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.report.verdict import verdict_line, verdict_of
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import control_name, seeds_name
from tasks.stage.cards import flush
from tasks.stage.gpu_pool import compute_here

P = ParamSpec("P")
T = TypeVar("T")


def _send_cards(flow: object, flow_run: object, state: object) -> None:
    """Cards that are left when the process ends are lost, with an error in its log for each (Prefect 3.8.8)."""
    flush()


def flow(name: str, flow_run_name: Callable[[], str] | None = None) -> Callable[[Callable[P, T]], Flow[P, T]]:
    """Prefect's decorator for a deployed flow."""
    return prefect_flow(name=name, flow_run_name=flow_run_name, on_completion=[_send_cards], on_failure=[_send_cards])


def _without_traceback(record: logging.LogRecord) -> bool:
    """Our errors are complete messages; Prefect would add four tracebacks of sixty lines."""
    if record.exc_info and isinstance(record.exc_info[1], WhyScoreError):
        record.exc_info = None
    return True


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_without_traceback)


def _run_name() -> str:
    parameters = flow_run.parameters
    name = name_to_show(parameters["recipe"])
    return str((parameters.get("overrides") or {}).get("name", name))


def shipped_recipes(method: str) -> Any:
    """Recipe files as choices of a form: those in `recipes/<method>/` by their paths there without ending, then others.

    The others are people's own, of the folder that `whyscore deploy --recipes` was given.
    """
    folder = SHIPPED / method
    names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return StrEnum("ShippedRecipe", {name: name for name in [*names, *own_recipes(method)]})


def choices(method: str) -> Any:
    """The recipes that a form takes: one of the files, the fields, or text."""
    return shipped_recipes(method) | recipe_class(method) | PastedRecipe


def chosen_recipe(kind: type[Recipe], recipe: object, overrides: dict[str, Any], store: str | None) -> Recipe:
    """The recipe that the form describes; raises `RecipeError` naming every wrong field."""
    changes = dict(overrides)
    if store:
        changes["runtime.store"] = store
    if isinstance(recipe, PastedRecipe):
        return of_kind(kind, read_pasted(recipe, changes))
    if isinstance(recipe, str) and is_own(recipe):
        return of_kind(kind, read_own(recipe, changes))
    if not isinstance(recipe, BaseRecipe):
        return load_recipe_of(kind, SHIPPED / kind.model_fields["method"].default / f"{recipe}.yaml", changes)
    fields = recipe.model_dump(mode="json")
    return of_kind(kind, parse_recipe(fields, changes, source="recipe of this run"))


def _seeds_run_name() -> str:
    return seeds_name(_run_name())


def _control_run_name() -> str:
    return control_name(_run_name())


def finished_state(store: str, report: ArtifactRef) -> State[ArtifactRef]:
    """The state of a finished run: its message is the verdict, which the UI shows and notifications tell."""
    verdict = verdict_of(ArtifactStore(store), report)
    return Completed(message=verdict_line(verdict) if verdict else None, data=report)


def deployed_flow(method: str, run: Flow[..., Any], run_name: Callable[[], str] = _run_name) -> Flow[..., Any]:
    """A flow that takes a recipe of the method, with a form for it: a shipped one or one's own, and what to change."""
    kind = recipe_class(method)
    choice = choices(method)

    # The overrides are never changed; None would be shown as a choice of types in the form.
    def deployed(recipe: choice, overrides: dict[str, Any] = {}, store: str | None = None) -> State[ArtifactRef]:  # type: ignore[valid-type] # noqa: B006
        chosen = chosen_recipe(kind, recipe, overrides, store)
        return finished_state(chosen.runtime.store, run.fn(chosen))

    deployed.__name__ = deployed.__qualname__ = run.name
    deployed.__doc__ = f"""{(run.description or run.name).splitlines()[0]}

    Args:
        recipe: A shipped recipe or a file of your own as it is; or your own recipe, field by field or as pasted YAML.
        overrides: Fields to change, e.g. {{"data.table": "s3://photos/table.csv", "name": "mine"}}.
        store: Where artifacts are kept: s3://bucket/prefix or a folder that all workers share; empty: the recipe's.
    """
    return flow(name=run.name, flow_run_name=run_name)(deployed)


def prediction_flow(method: str, run: Flow[..., Any]) -> Flow[..., Any]:
    """A flow that applies the model of a finished run of the method to new images, with a form for its recipe."""
    kind = recipe_class(method)
    choice = choices(method)

    def deployed(
        recipe: choice,  # type: ignore[valid-type]
        images: list[str],
        out: str | None = None,
        iteration: int | None = None,
        recursive: bool = False,
        overwrite: bool = False,
        overrides: dict[str, Any] = {},  # noqa: B006 - never changed; None would be shown as a choice of types
        store: str | None = None,
    ) -> ArtifactRef:
        chosen = chosen_recipe(kind, recipe, overrides, store)
        finished: ArtifactRef = run.fn(chosen, images, out, iteration, recursive=recursive, overwrite=overwrite)
        return finished

    deployed.__name__ = deployed.__qualname__ = run.name
    deployed.__doc__ = f"""{(run.description or run.name).splitlines()[0]}

    Args:
        recipe: The recipe of the run.
        images: Image files, folders or tables, local to the workers or s3://.
        out: File for the results (.csv, .xlsx, .parquet, or .html for a gallery); empty: only the store.
        iteration: Whose model; empty: the best one of the run.
        recursive: Look for images below the folders too.
        overwrite: Replace the file `out` if it exists.
        overrides: Fields to change, e.g. {{"name": "mine"}} for the run of that name.
        store: The store of the run: s3://bucket/prefix or a folder that all workers share; empty: the recipe's.
    """
    return flow(name=run.name, flow_run_name=_run_name)(deployed)


def deployed_names() -> list[str]:
    """The flows that are made for the methods: each method, its control and its predictions, as far as it has them."""
    methods = method_names()
    controls = [f"{method}_control" for method in methods if recipe_class(method).control]
    return [*methods, *controls, *(f"{method}_predict" for method in methods if _predicts(method))]


def _predicts(method: str) -> bool:
    return find_spec(f"flows.predictions.{method}") is not None


def __getattr__(name: str) -> Flow[..., Any]:
    """The flow of a method, its control or its predictions, for Prefect, which asks this module for it by its name."""
    if name in method_names():
        return deployed_flow(name, getattr(import_module(f"flows.{name}"), name))
    method = name.removesuffix("_predict")
    if name != method and method in method_names() and _predicts(method):
        return prediction_flow(method, getattr(import_module(f"flows.predictions.{method}"), name))
    method = name.removesuffix("_control")
    if name == method or method not in method_names() or not recipe_class(method).control:
        raise AttributeError(name)
    return deployed_flow(method, getattr(import_module(f"flows.controls.{method}"), name), _control_run_name)


_SelfImprove = choices("self_improve")


@flow(name="seeds", flow_run_name=_seeds_run_name)
def seeds(
    recipe: _SelfImprove,  # type: ignore[valid-type]
    seeds: list[int],
    controls: bool = False,
    overrides: dict[str, Any] = {},  # noqa: B006 - never changed; None would be shown as a choice of types in the form
    store: str | None = None,
) -> ArtifactRef:
    """Run a recipe once a seed, and compare final with zero-shot models over seeds.

    Args:
        recipe: A shipped recipe or a file of your own as it is; or your own recipe, field by field or as pasted YAML.
        seeds: At least two different ones, e.g. 1, 2 and 3.
        controls: Make the negative control of each run too.
        overrides: Fields to change, e.g. {"data.table": "s3://photos/table.csv", "name": "mine"}.
        store: Where artifacts are kept: s3://bucket/prefix or a folder that all workers share; empty: the recipe's.
    """
    check_seeds(seeds)
    chosen = chosen_recipe(SelfImproveRecipe, recipe, overrides, store)
    of_seeds: dict[int, BaseRecipe] = {seed: recipe_of_seed(chosen, seed) for seed in seeds}
    compared: ArtifactRef = run_seeds.fn(chosen.name, of_seeds, controls)
    return compared


ablation = deployed_flow("self_improve", run_ablation)


predict = prediction_flow("self_improve", run_predict)


@flow(name="gpu_stage")
def gpu_stage(
    stage: str, key: str, label: str, runtime: Runtime, arguments: dict[str, Any], run: str = ""
) -> ArtifactRef:
    """One stage of another flow (`run`), on a GPU. Started by flows, not by people."""
    return compute_here(stage, key, runtime, arguments, label, run)
