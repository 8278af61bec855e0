"""The command line. Nothing heavy is imported before a command needs it."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="WhyScore teaches a vision-language model to score images and to say why, from nothing but images and scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipePath = Annotated[Path, typer.Argument(help="A recipe, e.g. recipes/demo.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. --set iterations=2")
]


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Self-train a model as the recipe says; run it again to resume, or to see that nothing is left to do."""
    with _errors_for_people():
        from pipeline_lib.recipe import load_recipe

        _self_improve(load_recipe(recipe, _parse(overrides)))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of the data set: another seed is another data set")] = 0,
    folder: Annotated[Path, typer.Option(help="Where the data set and the store are kept")] = Path("whyscore-data"),
    overrides: Overrides = None,
) -> None:
    """Self-train the bundled model on bundled photographs: minutes on two cores, no network, no GPU."""
    with _errors_for_people():
        from pipeline_lib.demo.dataset import write_dataset
        from pipeline_lib.recipe import load_recipe

        table = write_dataset(folder / "demo" / f"seed-{seed}", seed)
        fields = {"name": f"demo-seed-{seed}", "data.table": str(table), "runtime.store": str(folder / "store")}
        _self_improve(load_recipe(_demo_recipe(), fields | _parse(overrides)))


@app.command()
def doctor(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check everything a run needs (store, table, images, model, memory, judge) without running it."""
    with _errors_for_people():
        from pipeline_lib.doctor import examine
        from pipeline_lib.recipe import load_recipe

        _quiet_libraries()
        _show_log()
        failed = 0
        for what, state, message in examine(load_recipe(recipe, _parse(overrides))):
            typer.echo(f"{state:<4}  {what:<6}  " + message.replace("\n", "\n" + " " * 14))
            failed += state == "FAIL"
        typer.echo(f"\n{failed} problem(s) to solve first." if failed else "\nReady: whyscore run " + str(recipe))
        raise typer.Exit(1 if failed else 0)


@app.command("check-data")
def check_data(
    table: Annotated[str, typer.Argument(help="Table, label file or folder, local or s3://; or a recipe (.yaml)")],
    dataset: Annotated[str | None, typer.Option(help="ava, aadb, koniq10k, spaq, kadid10k, tid2013 or table")] = None,
    images: Annotated[str | None, typer.Option(help="Folder or s3:// prefix of the images")] = None,
    image_column: str | None = None,
    score_column: str | None = None,
    split_column: str | None = None,
    no_split_column: Annotated[bool, typer.Option("--no-split-column", help="Have the splits drawn")] = False,
    group_column: str | None = None,
    split_list: Annotated[list[str] | None, typer.Option(metavar="SPLIT=FILE", help="E.g. test=names.txt")] = None,
    write_list: Annotated[Path | None, typer.Option("--list", help="Write all unusable images to this file")] = None,
    overrides: Overrides = None,
) -> None:
    """Show what a table and its images hold, and everything that is wrong with them; status 1 if a run would refuse."""
    with _errors_for_people():
        from pipeline_lib.data.survey import survey_data
        from pipeline_lib.data.survey_text import render_survey, render_unreadable
        from pipeline_lib.recipe import load_recipe, parse_recipe

        _quiet_libraries()
        _show_log()
        given: dict[str, Any] = {
            "dataset": dataset,
            "images": images,
            "image_column": image_column,
            "score_column": score_column,
            "split_column": split_column,
            "group_column": group_column,
            **{f"split_lists.{split}": path for split, path in _parse(split_list, "--split-list").items()},
        }
        fields = {f"data.{name}": value for name, value in given.items() if value is not None}
        if no_split_column:
            fields["data.split_column"] = None
        fields |= _parse(overrides)
        if table.endswith((".yaml", ".yml")):
            recipe = load_recipe(table, fields)
        else:
            fields |= {"data.table": table, "name": "check-data", "model.id": "bundled"}
            recipe = parse_recipe(_nested(fields), source="check-data")
        survey = survey_data(recipe.data, recipe.seed)
        typer.echo(render_survey(survey))
        if write_list:
            write_list.write_text(render_unreadable(survey), encoding="utf-8")
            typer.echo(f"\nAll {survey.unreadable.num_rows} missing or unreadable images are in {write_list}")
        raise typer.Exit(1 if survey.problems else 0)


@app.command()
def verify(store: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix")] = "whyscore-data/store") -> None:
    """Check the digest of every file of every artifact in a store."""
    with _errors_for_people():
        from pipeline_lib.errors import StoreError
        from pipeline_lib.store import ArtifactStore

        artifacts = ArtifactStore(store)
        addresses = list(artifacts.addresses())
        if not addresses:
            raise StoreError(f"{artifacts.root} holds no artifact; is it the store of a run (runtime.store)?")
        damaged = 0
        for address in addresses:
            for problem in artifacts.verify(address):
                damaged += 1
                typer.echo(f"{address}: {problem}")
        typer.echo(f"{len(addresses)} artifact(s), {damaged} problem(s)")
        raise typer.Exit(1 if damaged else 0)


@app.command()
def predict(
    recipe: RecipePath,
    images: Annotated[
        list[str] | None, typer.Argument(help="Images, folders, or tables (CSV, JSON lines, Parquet) with their paths")
    ] = None,
    out: Annotated[str, typer.Option(help="A path that ends in .parquet or .csv, local or s3://")] = "predictions.csv",
    iteration: Annotated[int | None, typer.Option(help="Whose model; else the newest")] = None,
    kind: Annotated[str | None, typer.Option(help="score, consistency or merged; else merged")] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the model to a new folder, for a server of your own")
    ] = None,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="Export the adapter without its base")] = False,
    overrides: Overrides = None,
) -> None:
    """Score and explain new images with the model of a run, or export that model."""
    with _errors_for_people():
        from pipeline_lib.errors import RecipeError
        from pipeline_lib.recipe import load_recipe

        parsed = load_recipe(recipe, _parse(overrides))
        if kind not in (None, "score", "consistency", "merged"):
            raise RecipeError(f"--kind {kind}: give score, consistency or merged")
        if not images and not export:
            raise RecipeError("give images, folders or tables to score, or --export DIR")
        _prepare_prefect()
        if export:
            _export(parsed, export, iteration, kind, adapter_only)
        if images:
            from flows.ephemeral_server import tie_server_to_this_process
            from flows.predict import predict as predict_flow

            tie_server_to_this_process()
            predict_flow(parsed, images, out, iteration, kind)  # type: ignore[arg-type]
            typer.echo(f"\nPredictions: {out}")


def _export(recipe: Any, folder: Path, iteration: int | None, kind: Any, adapter_only: bool) -> None:
    from pipeline_lib.predict.export import export_model
    from pipeline_lib.predict.trained import trained_model
    from pipeline_lib.store import ArtifactStore
    from pipeline_lib.vlm.model_ref import resolve_model
    from pipeline_lib.vlm.prompt import load_prompt

    store, prompt = ArtifactStore(recipe.runtime.store), load_prompt(recipe.prompt)
    base = resolve_model(recipe.model)
    found = trained_model(store, recipe.name, base, prompt, iteration=iteration, kind=kind)
    export_model(store, found, prompt, folder, adapter_only=adapter_only)
    typer.echo(f"{found.name} of run {recipe.name} is in {folder}; its README.md says how to use it")


@app.command()
def status(
    recipe: Annotated[Path | None, typer.Argument(help="Only the run of this recipe")] = None,
    store: Annotated[str | None, typer.Option(help="Folder or s3://bucket/prefix; else the recipe's")] = None,
    overrides: Overrides = None,
) -> None:
    """Show how far the runs in a store are, their newest figures, and what is under way."""
    with _errors_for_people():
        from pipeline_lib.recipe import load_recipe
        from pipeline_lib.status import store_status
        from pipeline_lib.store import ArtifactStore

        _show_log()
        names = None
        if recipe:
            parsed = load_recipe(recipe, _parse(overrides))
            store, names = store or parsed.runtime.store, [parsed.name]
        typer.echo(store_status(ArtifactStore(store or "whyscore-data/store"), names))


@app.command()
def report(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Print the results of a finished run again and where its report is; nothing is computed."""
    with _errors_for_people():
        from pipeline_lib.errors import StoreError
        from pipeline_lib.recipe import load_recipe
        from pipeline_lib.store import ArtifactStore

        parsed = load_recipe(recipe, _parse(overrides))
        store = ArtifactStore(parsed.runtime.store)
        if store.read_pointer(f"runs/{parsed.name}/report.json") is None:
            raise StoreError(
                f"{store.root} has no report of run {parsed.name}; `whyscore status {recipe}` says how far it is,"
                f" `whyscore run {recipe}` goes on"
            )
        _print_results(store, parsed.name)


@app.command()
def gc(
    store: Annotated[str, typer.Option(help="Folder or s3://bucket/prefix")] = "whyscore-data/store",
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; else it is only counted")] = False,
    days: Annotated[float, typer.Option(min=0, help="Leave alone what was written since; runs may be under way")] = 14,
    forget: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Remove this run; its artifacts go if no other needs them")
    ] = None,
) -> None:
    """Remove what no run in a store needs; without --apply only say what that is."""
    with _errors_for_people():
        from pipeline_lib.errors import StoreError
        from pipeline_lib.store import ArtifactStore
        from pipeline_lib.store.gc import garbage, remove

        artifacts = ArtifactStore(store)
        runs = artifacts.children("runs")
        if not runs:
            raise StoreError(f"{artifacts.root} holds no run; is it the store of a run (runtime.store)?")
        if unknown := sorted(set(forget or []) - set(runs)):
            raise StoreError(f"--forget {unknown[0]}: the runs in {artifacts.root} are {', '.join(runs)}")
        removals = garbage(artifacts, days, forget or [])
        kinds: dict[str, tuple[int, int]] = {}
        for removal in removals:
            count, size = kinds.get(removal.kind, (0, 0))
            kinds[removal.kind] = count + 1, size + removal.size
        for kind, (count, size) in kinds.items():
            typer.echo(f"{size:>15,} bytes  {count:>6} x {kind}")
        uploads = artifacts.unfinished_uploads(days, remove=apply)
        if uploads:
            typer.echo(f"{'?':>15} bytes  {len(uploads):>6} x uploads that were never completed")
        total = sum(removal.size for removal in removals)
        if apply:
            remove(artifacts, removals)
        if not (removals or uploads):
            typer.echo("Nothing to remove.")
        elif apply:
            typer.echo(f"{total:>15,} bytes removed")
        else:
            typer.echo(f"{total:>15,} bytes in all. Nothing was removed; add --apply to do so.")


@app.command()
def rejudge(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Let another judge model re-score what was kept of every iteration, beside the judges that did before."""
    with _errors_for_people():
        from pipeline_lib.recipe import load_recipe

        parsed = load_recipe(recipe, _parse(overrides))
        _prepare_prefect()
        from flows.ephemeral_server import tie_server_to_this_process
        from flows.rejudge import rejudge as rejudge_flow

        tie_server_to_this_process()
        typer.echo("\n" + rejudge_flow(parsed))


@app.command()
def ablation(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Compare self-training with supervised and with non-iterative training: the paper's Table 3 for this recipe."""
    _compare("ablation", recipe, overrides)


@app.command()
def grid_search(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Choose learning rate, beta and LoRA rank on validation, as the paper's appendix A.1 does."""
    _compare("grid_search", recipe, overrides)


@app.command()
def merge_ablation(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Compare ways of merging the two adapters of an iteration, on validation."""
    _compare("merge_ablation", recipe, overrides)


def _compare(experiment: str, path: Path, overrides: list[str] | None) -> None:
    with _errors_for_people():
        from pipeline_lib.recipe import load_recipe

        recipe = load_recipe(path, _parse(overrides))
        _prepare_prefect()
        from importlib import import_module
        from tempfile import TemporaryDirectory

        from flows.ephemeral_server import tie_server_to_this_process
        from pipeline_lib.store import ArtifactStore

        tie_server_to_this_process()
        finished = getattr(import_module(f"flows.{experiment}"), experiment)(recipe)
        store = ArtifactStore(recipe.runtime.store)
        with TemporaryDirectory() as folder:
            store.fetch(finished.address, Path(folder))
            typer.echo("\n" + (Path(folder) / "comparison.txt").read_text(encoding="utf-8"))
        typer.echo(f"Page: {store.path(f'runs/{recipe.name}/{experiment}/comparison.html')}")


@app.command()
def deploy(
    store: Annotated[
        str | None, typer.Option(help="Folder or s3://bucket/prefix that all workers see; else the stack's own")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Runs that the GPU pool takes at a time; else one a worker")] = None,
    pool_type: Annotated[str, typer.Option(help="process, docker or kubernetes")] = "process",
    home: Annotated[Path | None, typer.Option(help="Where the workers find WhyScore, else here")] = None,
) -> None:
    """Register pools, deployments and automations on the Prefect server (PREFECT_API_URL, else that of `make up`)."""
    with _errors_for_people():
        from deployments.settings import use_stack

        _quiet_libraries()
        wanted = use_stack(store)
        from deployments.register import register

        for line in register(wanted, home=home, pool_type=pool_type, gpus=gpus):
            typer.echo(line)


def _self_improve(recipe: Any) -> None:
    _prepare_prefect()
    from flows.ephemeral_server import tie_server_to_this_process
    from flows.self_improve import self_improve
    from pipeline_lib.store import ArtifactStore

    tie_server_to_this_process()
    self_improve(recipe)
    _print_results(ArtifactStore(recipe.runtime.store), recipe.name)


def _print_results(store: Any, name: str) -> None:
    folder = f"runs/{name}/report"
    typer.echo("\n" + store.files.read(store.path(folder, "results.txt")).decode())
    typer.echo(f"Report: {store.path(folder, 'report.html')}")


def _demo_recipe() -> Path:
    return Path(__file__).parents[1] / "recipes" / "demo.yaml"


def _parse(overrides: list[str] | None, option: str = "--set") -> dict[str, Any]:
    import yaml

    from pipeline_lib.errors import RecipeError

    fields = {}
    for text in overrides or []:
        field, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"{option} {text}: write it as NAME=VALUE")
        fields[field.strip()] = yaml.safe_load(value)
    return fields


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Dotted names as the mapping that a recipe is."""
    recipe: dict[str, Any] = {}
    for dotted, value in fields.items():
        *parents, leaf = dotted.split(".")
        section = recipe
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return recipe


@contextmanager
def _errors_for_people() -> Iterator[None]:
    """Errors that are the input's fault end in a message and status 1, Ctrl-C in 130; neither in a traceback."""
    from pipeline_lib.errors import WhyScoreError

    try:
        yield
    except WhyScoreError as error:
        typer.echo(f"\n{type(error).__name__}: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What is finished is in the store; run the same command to go on.", err=True)
        sys.exit(130)


def _quiet_libraries() -> None:
    # Idle OpenMP threads must not spin: on few cores they take the time that the others need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _prepare_prefect() -> None:
    """Settings that Prefect reads when it is first imported; what the user has set stays.

    Prefect's own lines and tracebacks go to its API, where the UI shows them; the terminal shows WhyScore's.
    """
    _quiet_libraries()
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "whyscore",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its default is too short for a busy machine
    }.items():
        os.environ.setdefault(name, value)
    _show_log()


def _show_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("whyscore")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


if __name__ == "__main__":
    app()
