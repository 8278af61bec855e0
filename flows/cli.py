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
    """Check everything a run needs (recipe, store, table, images, model) without running it."""
    with _errors_for_people():
        from pipeline_lib.doctor import examine
        from pipeline_lib.recipe import load_recipe

        _quiet_libraries()
        _show_log()
        findings = list(examine(load_recipe(recipe, _parse(overrides))))
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.message}")
        failed = sum(not finding.ok for finding in findings)
        typer.echo(f"\n{failed} problem(s) to solve first." if failed else "\nReady: whyscore run " + str(recipe))
        raise typer.Exit(1 if failed else 0)


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="The store's folder")] = Path("whyscore-data/store")) -> None:
    """Check the digest of every file of every artifact in a store."""
    with _errors_for_people():
        from pipeline_lib.errors import StoreError
        from pipeline_lib.store import ArtifactStore

        artifacts = ArtifactStore(str(store))
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


def _self_improve(recipe: Any) -> None:
    _prepare_prefect()
    from flows.ephemeral_server import tie_server_to_this_process
    from flows.self_improve import self_improve
    from pipeline_lib.store import ArtifactStore

    tie_server_to_this_process()
    self_improve(recipe)
    folder = Path(ArtifactStore(recipe.runtime.store).path(f"runs/{recipe.name}/report"))
    typer.echo("\n" + (folder / "results.txt").read_text(encoding="utf-8"))
    typer.echo(f"Report: {folder / 'report.html'}")


def _demo_recipe() -> Path:
    return Path(__file__).parents[1] / "recipes" / "demo.yaml"


def _parse(overrides: list[str] | None) -> dict[str, Any]:
    import yaml

    from pipeline_lib.errors import RecipeError

    fields = {}
    for text in overrides or []:
        field, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"--set {text}: write it as FIELD=VALUE")
        fields[field.strip()] = yaml.safe_load(value)
    return fields


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
