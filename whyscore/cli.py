"""The command line: `whyscore` and its commands, in the order in which people need them."""

from importlib.metadata import version
from typing import Annotated

import typer

from whyscore.commands import checks, compare, models, new, page, platform, push, runs, stores

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"whyscore {version('whyscore')}")
        raise typer.Exit


@app.callback()
def whyscore(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Teach a vision-language model to score images and to say why, from nothing but images and scores."""


for command in (
    runs.demo,
    runs.demo_data,
    new.new,
    checks.check_data,
    checks.doctor,
    runs.plan,
    runs.run,
    runs.control,
    runs.seeds,
    stores.status,
    stores.report,
    compare.compare,
    models.predict,
    push.push,
    page.app,
    runs.rejudge,
    runs.ablation,
    runs.grid_search,
    runs.merge_ablation,
    stores.verify,
    stores.gc,
    platform.deploy,
):
    app.command()(command)

if __name__ == "__main__":
    app()
