"""Shared by all commands: arguments, error messages, quiet libraries and the log."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

RecipePath = Annotated[Path, typer.Argument(help="A recipe, e.g. recipes/self_improve/demo.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. --set iterations=2")
]


def parse_overrides(overrides: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """`NAME=VALUE` texts as a mapping, each value read as YAML."""
    import yaml

    from pipeline_lib.errors import RecipeError

    fields = {}
    for text in overrides or []:
        field, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"{option} {text}: write it as NAME=VALUE")
        fields[field.strip()] = yaml.safe_load(value)
    return fields


@contextmanager
def errors_for_people() -> Iterator[None]:
    """End with a message and status 1 at a `WhyScoreError`, with status 130 at Ctrl-C; neither shows a traceback."""
    from pipeline_lib.errors import WhyScoreError

    try:
        yield
    except WhyScoreError as error:
        typer.echo(f"\n{type(error).__name__}: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. Finished stages are in the store; run the same command again to continue.", err=True)
        sys.exit(130)


def quiet_libraries() -> None:
    """Switch off telemetry and warnings that a user cannot act on; the user's own settings stay."""
    # Idle OpenMP threads must not spin: on few cores they take the time that the others need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def prepare_prefect() -> None:
    """Settings that Prefect reads when it is first imported; the user's own settings stay.

    Prefect's own lines and tracebacks go to its API, where the UI shows them; the terminal shows WhyScore's.
    """
    quiet_libraries()
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "whyscore",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its default is too short for a busy machine
    }.items():
        os.environ.setdefault(name, value)
    show_log()


def show_log() -> None:
    """WhyScore's log lines on the terminal, with the time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("whyscore")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def print_results(store: Any, name: str) -> None:
    """Print the results of a finished run and the path of its report."""
    from pipeline_lib.store.runs import copied, written

    left = written(store).get(name, {})
    if "report/results.txt" in left:
        typer.echo("\n" + store.files.read(copied(store, name, "report", "results.txt")).decode())
    if "report/report.html" in left:
        typer.echo(f"Report: {copied(store, name, 'report', 'report.html')}")
