"""Commands that set runs beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from whyscore.commands.terminal import at_home, errors_for_people, local_path


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C]",
            callback=at_home,
            help="Two or three runs: each the name of a run, a folder <store>/runs/<name>, or a recipe (.yaml)",
        ),
    ],
    store: Annotated[
        str, typer.Option(callback=at_home, help="Store of the runs that are given by name")
    ] = "whyscore-data/store",
    out: Annotated[
        Path | None, typer.Option(callback=local_path, metavar="FILE.html", help="Write the comparison as a page too")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out if it exists")] = False,
) -> None:
    """Compare runs: recipes, figures with paired intervals, training curves and cost; compute nothing new."""
    with errors_for_people():
        from pipeline_lib.errors import RecipeError

        if out is not None:
            if out.suffix != ".html":
                raise RecipeError(f"--out {out}: give a path that ends in .html")
            if out.exists() and not overwrite:
                raise RecipeError(f"--out {out} exists; give another path or --overwrite")
        from pipeline_lib.report.comparison import comparison_text, render_comparison
        from pipeline_lib.use.compare import compare_runs, find_run
        from pipeline_lib.use.compare_page import comparison_of

        compared = comparison_of(compare_runs([find_run(run, store) for run in runs]))
        typer.echo("\n".join(["", *compared.lead, "", comparison_text(compared)]))
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(render_comparison(compared), encoding="utf-8")
            typer.echo(f"Page: {out}")
