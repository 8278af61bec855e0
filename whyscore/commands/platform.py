"""Commands for the people who keep the platform."""

from pathlib import Path
from typing import Annotated

import typer

from whyscore.commands.terminal import at_home, errors_for_people, local_path, quiet_libraries


def deploy(
    store: Annotated[
        str | None,
        typer.Option(callback=at_home, help="Folder or s3://bucket/prefix that all workers see; else the stack's own"),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Runs that the GPU pool takes at a time; else one for each worker")
    ] = None,
    pool_type: Annotated[str, typer.Option(help="process, docker or kubernetes")] = "process",
    home: Annotated[
        Path | None, typer.Option(callback=local_path, help="Where the workers find WhyScore, else here")
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            envvar="WHYSCORE_NOTIFY",
            help="Webhook that is told when a run finishes, fails or waits; none: tell nobody any more",
        ),
    ] = None,
    store_url: Annotated[
        str | None,
        typer.Option(
            envvar="WHYSCORE_STORE_URL", help="Address under which browsers reach the store, for the links to reports"
        ),
    ] = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            callback=at_home,
            envvar="WHYSCORE_RECIPES",
            help="Folder or s3://bucket/prefix of recipe files that the forms offer too; all workers must see it",
        ),
    ] = None,
) -> None:
    """Register pools, deployments and automations on the Prefect server (PREFECT_API_URL, else that of `make up`)."""
    with errors_for_people():
        from deployments.settings import use_stack

        quiet_libraries()
        wanted = use_stack(store)
        import os

        from whyscore.commands.terminal import reach_this_machine_directly
        from whyscore.ephemeral_server import check_server

        reach_this_machine_directly()
        check_server(os.environ["PREFECT_API_URL"])
        from deployments.register import register

        lines = register(
            wanted, home=home, pool_type=pool_type, gpus=gpus, notify=notify, store_url=store_url, recipes=recipes
        )
        for line in lines:
            typer.echo(line)
