"""Commands that use the model of a run."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from whyscore.commands.terminal import (
    Overrides,
    RecipePath,
    at_home,
    errors_for_people,
    local_path,
    parse_overrides,
    prepare_prefect,
)

SHOWN = 20


def predict(
    recipe: RecipePath,
    images: Annotated[
        list[str] | None,
        typer.Argument(callback=at_home, help="Images, folders, or tables (CSV, JSON lines, Parquet) with their paths"),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(callback=at_home, help="A path that ends in .csv, .xlsx, .parquet or .html (a gallery); or s3://"),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look below the folders too")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out if it exists")] = False,
    iteration: Annotated[int | None, typer.Option(help="Iteration of the model; else the best model")] = None,
    kind: Annotated[str | None, typer.Option(help="score, consistency or merged; else the best model")] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="DIR", callback=local_path, help="Write the model to a new folder, for your own server"),
    ] = None,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="Export the adapter without its base")] = False,
    overrides: Overrides = None,
) -> None:
    """Score and explain new images with the model of a run, or export that model; status 1 if none can be scored."""
    with errors_for_people():
        from pipeline_lib.config.load import load_recipe, of_kind
        from pipeline_lib.errors import RecipeError
        from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe

        loaded = load_recipe(recipe, parse_overrides(overrides))
        if _has_own_flow(loaded.method):
            _rate(loaded, images, out, iteration, kind, export, adapter_only, recursive=recursive, overwrite=overwrite)
            return
        parsed = of_kind(SelfImproveRecipe, loaded)
        if kind not in (None, "score", "consistency", "merged"):
            raise RecipeError(f"--kind {kind}: give score, consistency or merged")
        if not images and not export:
            raise RecipeError("give images, folders or tables to score, or --export DIR")
        if images:
            _check_out(out, overwrite)
        prepare_prefect()
        if export:
            export_run(parsed, export, iteration, kind, adapter_only)
        if images:
            from flows.predict import predict as predict_flow
            from whyscore.ephemeral_server import tie_server_to_this_process

            tie_server_to_this_process()
            more: Any = {"iteration": iteration, "kind": kind, "recursive": recursive, "overwrite": overwrite}
            finished = predict_flow(parsed, images, out, **more)
            from pipeline_lib.use.views import scores_of

            _show(parsed.runtime.store, finished, "new_predictions", scores_of(parsed.data.score_column), out)


def _has_own_flow(method: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"flows.predictions.{method}") is not None


def _check_out(out: str | None, overwrite: bool) -> None:
    """Refuse what cannot be written, before seconds of loading."""
    if out:
        from pipeline_lib.use.output import writer

        writer(out, overwrite=overwrite)


def _rate(
    recipe: Any,
    images: list[str] | None,
    out: str | None,
    iteration: int | None,
    kind: str | None,
    export: Path | None,
    adapter_only: bool,
    *,
    recursive: bool,
    overwrite: bool,
) -> None:
    """Run the flow of a method that rates in its own way."""
    from importlib import import_module

    from pipeline_lib.errors import RecipeError
    from pipeline_lib.use.views import RATINGS

    if kind:
        raise RecipeError(f"--kind is for recipes of self_improve; this one is of {recipe.method}")
    if not images and not export:
        raise RecipeError("give images, folders or tables to rate, or --export DIR")
    if images:
        _check_out(out, overwrite)
    prepare_prefect()
    if export:
        export_run(recipe, export, iteration, kind, adapter_only)
    if not images:
        return
    from whyscore.ephemeral_server import tie_server_to_this_process

    tie_server_to_this_process()
    flow = getattr(import_module(f"flows.predictions.{recipe.method}"), f"{recipe.method}_predict")
    finished = flow(recipe, images, out, iteration, recursive=recursive, overwrite=overwrite)
    _show(recipe.runtime.store, finished, "new_ratings", RATINGS, out)


def _show(store: str, predictions: Any, name: str, view: Any, out: str | None) -> None:
    """The first predictions, so that a few images need no file to be opened."""
    from pipeline_lib.store import ArtifactStore
    from pipeline_lib.use.output import terminal_table

    table = ArtifactStore(store).read_table(predictions.address, name)
    width = shutil.get_terminal_size((120, 24)).columns
    typer.echo(f"\n{terminal_table(table, view, shown=SHOWN, width=width)}")
    if table.num_rows > SHOWN:
        where = "in the file" if out else "in the store; the same command with --out FILE writes all without computing"
        typer.echo(f".. and {table.num_rows - SHOWN:,} more {where}")
    if out:
        typer.echo(f"\nIn full: {out}")


def export_run(recipe: Any, folder: Path, iteration: int | None, kind: Any, adapter_only: bool) -> None:
    """Write a model of a run to a new folder."""
    from pipeline_lib.store import ArtifactStore
    from pipeline_lib.use.export_folder import write_folder
    from pipeline_lib.use.exports import export_of

    store = ArtifactStore(recipe.runtime.store)
    found = export_of(store, recipe, iteration, kind)
    write_folder(store, found, folder, adapter_only=adapter_only)
    typer.echo(f"{found.name} of run {recipe.name} ({found.why}) is in {folder}; its README.md says how to use it")
    for warning in found.warnings:
        typer.echo(f"The run's verdict: {warning}")
