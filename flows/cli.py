"""The command line: `whyscore` and its commands, in the order in which people need them."""

import typer

from flows.commands import checks, models, platform, runs, stores

app = typer.Typer(
    help="WhyScore teaches a vision-language model to score images and to say why, from nothing but images and scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for command in (
    runs.demo,
    checks.check_data,
    checks.doctor,
    runs.run,
    stores.status,
    stores.report,
    models.predict,
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
