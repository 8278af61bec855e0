"""Commands that use the model of a run."""

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

SHOWN = 3


def predict(
    recipe: RecipePath,
    images: Annotated[
        list[str] | None,
        typer.Argument(callback=at_home, help="Images, folders, or tables (CSV, JSON lines, Parquet) with their paths"),
    ] = None,
    out: Annotated[
        str, typer.Option(callback=at_home, help="A path that ends in .parquet or .csv, local or s3://")
    ] = "predictions.csv",
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
            _rate(loaded, images, out, iteration, kind, export)
            return
        parsed = of_kind(SelfImproveRecipe, loaded)
        if kind not in (None, "score", "consistency", "merged"):
            raise RecipeError(f"--kind {kind}: give score, consistency or merged")
        if not images and not export:
            raise RecipeError("give images, folders or tables to score, or --export DIR")
        if images:
            from pipeline_lib.use.output import writer

            writer(out)  # refuses what cannot be written, before seconds of loading
        prepare_prefect()
        if export:
            export_run(parsed, export, iteration, kind, adapter_only)
        if images:
            from flows.predict import predict as predict_flow
            from whyscore.ephemeral_server import tie_server_to_this_process

            tie_server_to_this_process()
            finished = predict_flow(parsed, images, out, iteration, kind)  # type: ignore[arg-type]
            _show(parsed.runtime.store, finished, parsed.data.score_column)
            typer.echo(f"\nPredictions: {out}")


def _has_own_flow(method: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"flows.predictions.{method}") is not None


def _rate(
    recipe: Any, images: list[str] | None, out: str, iteration: int | None, kind: str | None, export: Path | None
) -> None:
    """Run the flow of a method that rates in its own way."""
    from importlib import import_module

    from pipeline_lib.errors import RecipeError
    from pipeline_lib.use.output import writer

    if kind or export:
        raise RecipeError(f"--kind and --export are for recipes of self_improve; this one is of {recipe.method}")
    if not images:
        raise RecipeError("give images, folders or tables to rate")
    writer(out)  # refuses what cannot be written, before seconds of loading
    prepare_prefect()
    from pipeline_lib.store import ArtifactStore
    from whyscore.ephemeral_server import tie_server_to_this_process

    tie_server_to_this_process()
    flow = getattr(import_module(f"flows.predictions.{recipe.method}"), f"{recipe.method}_predict")
    finished = flow(recipe, images, out, iteration)
    table = ArtifactStore(recipe.runtime.store).read_table(finished.address, "new_ratings")
    for row in table.slice(0, SHOWN).to_pylist():
        said = row["problem"] or f"{row['rating']:.2f} of 1..5 (mean of {row['ratings']} answers)"
        typer.echo(f"\n{row['image']}: {said}")
    if table.num_rows > SHOWN:
        typer.echo(f"\n.. and {table.num_rows - SHOWN:,} more in the file")
    typer.echo(f"\nRatings: {out}")


def _show(store: str, predictions: Any, score_column: str) -> None:
    """The first predictions, so that one image needs no file to be opened."""
    from pipeline_lib.store import ArtifactStore

    table = ArtifactStore(store).read_table(predictions.address, "new_predictions")
    for row in table.slice(0, SHOWN).to_pylist():
        if row["problem"] is not None:
            typer.echo(f"\n{row['image']}: not scored, {row['problem']}")
            continue
        typer.echo(f"\n{row['image']}: {row['predicted']:.2f} (predicted {score_column}, on the scale of your data)")
        said = row["explanation"] if row["parsed"] else row["text"]
        typer.echo(f"  {' '.join(said.split())}")
    if table.num_rows > SHOWN:
        typer.echo(f"\n.. and {table.num_rows - SHOWN:,} more in the file")


def export_run(recipe: Any, folder: Path, iteration: int | None, kind: Any, adapter_only: bool) -> None:
    """Write a model of a run to a new folder."""
    from pipeline_lib.methods.self_improve.prompt import load_prompt
    from pipeline_lib.store import ArtifactStore
    from pipeline_lib.store.runs import open_run
    from pipeline_lib.use.export import export_model
    from pipeline_lib.use.trained import trained_model
    from pipeline_lib.vlm.model_ref import resolve_model

    store, prompt = ArtifactStore(recipe.runtime.store), load_prompt(recipe.prompt)
    base = resolve_model(recipe.model, store)
    run = open_run(store, recipe.name, recipe.run_fields())
    found = trained_model(run, base, prompt, iteration=iteration, kind=kind)
    export_model(
        store,
        found,
        prompt,
        recipe.model.max_new_tokens,
        folder,
        score_column=recipe.data.score_column,
        seed=recipe.seed,
        adapter_only=adapter_only,
    )
    typer.echo(f"{found.name} of run {recipe.name} ({found.why}) is in {folder}; its README.md says how to use it")
    for warning in found.warnings:
        typer.echo(f"The run's verdict: {warning}")
