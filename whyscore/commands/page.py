"""The command that serves a model of a run as a page for a browser."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from whyscore.commands.terminal import (
    Overrides,
    at_home,
    errors_for_people,
    local_path,
    parse_overrides,
    quiet_libraries,
    show_log,
)

PASSWORD = "WHYSCORE_APP_PASSWORD"


def app(
    source: Annotated[
        str,
        typer.Argument(
            callback=at_home, help="The recipe of a run, or a folder that `whyscore predict --export` wrote"
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; other than 127.0.0.1 it needs a password")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8765,
    password_file: Annotated[
        Path | None,
        typer.Option(callback=local_path, help=f"File with the password; else {PASSWORD} in the environment"),
    ] = None,
    max_images: Annotated[int, typer.Option(min=1, help="Images that one page holds at a time")] = 200,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest file in MB")] = 40.0,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image in millions of pixels")] = 100.0,
    iteration: Annotated[int | None, typer.Option(help="Iteration of the model, as for predict")] = None,
    kind: Annotated[str | None, typer.Option(help="score, consistency or merged, as for predict")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps; else the recipe's")] = None,
    overrides: Overrides = None,
) -> None:
    """Serve a page to drop images on: score, interval, distribution, explanation; compare two; download all."""
    with errors_for_people():
        quiet_libraries()
        show_log()
        from pipeline_lib.errors import RecipeError

        password = _password(password_file)
        if kind not in (None, "score", "consistency", "merged"):
            raise RecipeError(f"--kind {kind}: give score, consistency or merged")
        _check_address(host, password)
        listening = _listen(host, port)
        from pipeline_lib.use.app.queue import Limits
        from pipeline_lib.use.app.server import about, build_app
        from pipeline_lib.use.scorer import Scorer

        recipe = _recipe(source, overrides)
        chosen: Any = {"iteration": iteration, "kind": kind, "device": device}
        scorer = Scorer.load(source, **chosen) if recipe is None else Scorer.of_run(recipe, **chosen)
        limits = Limits(images=max_images, megabytes=max_mb, megapixels=max_megapixels)
        served = build_app(scorer.score, about(scorer, _verdict(recipe)), host=host, password=password, limits=limits)
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"{scorer.name} is at http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
        if not _is_loopback(host):
            typer.echo("The password and the images travel unencrypted: put a server with TLS before it (docs/app.md).")
        _serve(served, listening)


def _recipe(source: str, overrides: list[str] | None) -> Any:
    """The recipe, some of its fields overridden; None for an exported folder or a hub id, which have none."""
    from pipeline_lib.config.load import load_recipe_of
    from pipeline_lib.errors import RecipeError
    from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe

    if not os.path.isfile(source) and not source.endswith((".yaml", ".yml")):
        if overrides:
            raise RecipeError(f"--set is for recipes; {source} is none")
        return None
    return load_recipe_of(SelfImproveRecipe, source, parse_overrides(overrides))


def _verdict(recipe: Any) -> list[str]:
    """The verdict of a recipe's run, in sentences; an exported folder has none."""
    if recipe is None:
        return []
    from pipeline_lib.report.verdict import verdict_of_run
    from pipeline_lib.store import ArtifactStore
    from pipeline_lib.store.runs import open_run

    verdict = verdict_of_run(open_run(ArtifactStore(recipe.runtime.store), recipe))
    if verdict is None:
        return []
    first = verdict.points[0]
    said = [f"{first.question} {first.answer}", *first.reasons, *verdict.warnings]
    return list(dict.fromkeys(said))


def _is_loopback(host: str) -> bool:
    from pipeline_lib.use.app.guard import is_loopback

    return is_loopback(host)


def _password(file: Path | None) -> str | None:
    from pipeline_lib.errors import RecipeError
    from pipeline_lib.use.app.guard import LEAST_PASSWORD

    found = file.read_text(encoding="utf-8").strip() if file else os.environ.get(PASSWORD)
    if found is not None and len(found) < LEAST_PASSWORD:
        where = str(file) if file else PASSWORD
        raise RecipeError(f"{where}: the password has {len(found)} characters; it needs {LEAST_PASSWORD} or more")
    return found


def _check_address(host: str, password: str | None) -> None:
    from pipeline_lib.errors import RecipeError

    if not _is_loopback(host) and not password:
        raise RecipeError(
            f"--host {host}: others can reach this address, so the page needs a password: set {PASSWORD} in the"
            " environment or give --password-file; without --host the page is for this machine alone"
        )


def _listen(host: str, port: int) -> Any:
    """A socket that listens, before seconds of loading: the address may be taken."""
    import socket

    from pipeline_lib.errors import RecipeError

    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(kind, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise RecipeError(
            f"the page cannot listen on {host} port {port}: {error.strerror or error}; give another --host or --port"
        ) from error
    return found


def _serve(served: Any, listening: Any) -> None:
    import uvicorn

    config = uvicorn.Config(
        served,
        log_level="warning",
        log_config=None,  # uvicorn's own closes the handlers of the whole process
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=200,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])
