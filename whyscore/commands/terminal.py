"""Shared by all commands: arguments, error messages, quiet libraries and the log."""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

RecipePath = Annotated[Path, typer.Argument(help="A recipe, e.g. recipes/self_improve/demo.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. --set iterations=2")
]


def parse_overrides(overrides: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """`NAME=VALUE` texts as a mapping, each value read as YAML."""
    from pipeline_lib.config.load import read_yaml, shorten
    from pipeline_lib.errors import RecipeError

    fields = {}
    for text in overrides or []:
        field, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"{option} {shorten(text)}: write it as NAME=VALUE")
        fields[field.strip()] = read_yaml(value, shorten(f"{option} {field}"))
    return fields


def at_home(place: T) -> T:
    """A path or address of an option, or a list of them, with the home folder for ~: shells leave `--store=~/x`."""
    if isinstance(place, list):
        return [at_home(part) for part in place]  # type: ignore[return-value]
    return os.path.expanduser(place) if isinstance(place, str) else place  # type: ignore[return-value]


def local_path(path: Path | None) -> Path | None:
    """The path of an option with the home folder for ~; an address is refused, which would be made a folder here."""
    if path is not None and re.match(r"[A-Za-z0-9]+:/", str(path)):
        raise typer.BadParameter("give a path on this machine")
    return path and Path(os.path.expanduser(path))


@contextmanager
def errors_for_people() -> Iterator[None]:
    """End with a message and status 1 at a `WhyScoreError` or a file that cannot be used, with status 130 at Ctrl-C.

    None shows a traceback. Names that are not UTF-8 are shown with backslashes.
    """
    from pipeline_lib.addresses import without_secrets
    from pipeline_lib.config.load import shorten
    from pipeline_lib.errors import WhyScoreError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:  # of `whyscore status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (WhyScoreError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            where = f": {shorten(str(error.filename))}" if error.filename is not None else ""
            said = f"{error.strerror}{where}"
        else:
            said = str(error)
        typer.echo(f"\n{type(error).__name__}: {without_secrets(said)}", err=True)
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
    reach_this_machine_directly()
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "whyscore",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its default is too short for a busy machine
    }.items():
        os.environ.setdefault(name, value)
    show_log()
    logging.getLogger("whyscore").info("starting; loading Prefect takes some seconds")


def reach_this_machine_directly() -> None:
    """Except this machine from the environment's proxy, which cannot reach Prefect's server here."""
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if not any(os.environ.get(name) for proxy in proxies for name in (proxy, proxy.upper())):
        return
    hosts = [host.strip() for host in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")]
    wanted = ",".join(dict.fromkeys([*filter(None, hosts), "localhost", "127.0.0.1", "::1"]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = wanted


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
    from pipeline_lib.report import verdict as verdicts
    from pipeline_lib.store.runs import copied, written

    left = written(store).get(name, {})
    if "report/results.txt" in left:
        typer.echo("\n" + store.files.read(copied(store, name, "report", "results.txt")).decode())
    if f"report/{verdicts.FILE}" in left:
        verdict = verdicts.Verdict.model_validate_json(store.files.read(copied(store, name, "report", verdicts.FILE)))
        typer.echo(verdicts.verdict_text(verdict) + "\n")
    if "report/report.html" in left:
        typer.echo(f"Report: {copied(store, name, 'report', 'report.html')}")
