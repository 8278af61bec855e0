"""Commands that check before a run: everything it needs, or its data alone."""

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
    quiet_libraries,
    show_log,
)


def doctor(
    recipe: RecipePath,
    overrides: Overrides = None,
    card: Annotated[
        str | None, typer.Option(help="Estimate the hours on a card that is not here: a6000 or h100")
    ] = None,
) -> None:
    """Check everything a run needs (store, table, images, model, memory, judge), and estimate its memory and hours."""
    with errors_for_people():
        from pipeline_lib.checks.doctor import examine
        from pipeline_lib.config.load import load_recipe

        quiet_libraries()
        show_log()
        failed = 0
        for what, state, message in examine(load_recipe(recipe, parse_overrides(overrides)), card):
            typer.echo(f"{state:<4}  {what:<6}  " + message.replace("\n", "\n" + " " * 14))
            failed += state == "FAIL"
        typer.echo(f"\n{failed} problem(s) to solve first." if failed else "\nReady: whyscore run " + str(recipe))
        raise typer.Exit(1 if failed else 0)


def check_data(
    table: Annotated[
        str, typer.Argument(callback=at_home, help="Table, label file or folder, local or s3://; or a recipe (.yaml)")
    ],
    dataset: Annotated[str | None, typer.Option(help="ava, aadb, koniq10k, spaq, kadid10k, tid2013 or table")] = None,
    images: Annotated[str | None, typer.Option(callback=at_home, help="Folder or s3:// prefix of the images")] = None,
    image_column: str | None = None,
    score_column: str | None = None,
    split_column: str | None = None,
    no_split_column: Annotated[bool, typer.Option("--no-split-column", help="Draw the splits")] = False,
    group_column: str | None = None,
    split_list: Annotated[list[str] | None, typer.Option(metavar="SPLIT=FILE", help="E.g. test=names.txt")] = None,
    method: Annotated[
        str | None, typer.Option(help="Of a table that is no recipe: evo_quality reads images without scores")
    ] = None,
    write_list: Annotated[
        Path | None, typer.Option("--list", callback=local_path, help="Write all unusable images to this file")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Show a table or all tables of a recipe, their images and all problems; status 1 if a run would refuse them."""
    with errors_for_people():
        from pipeline_lib.checks.methods import surveys_of
        from pipeline_lib.checks.survey_text import render_surveys, render_unreadable
        from pipeline_lib.config.load import DEFAULT_METHOD, load_recipe, parse_recipe

        quiet_libraries()
        show_log()
        given: dict[str, Any] = {
            "dataset": dataset,
            "images": images,
            "image_column": image_column,
            "score_column": score_column,
            "split_column": split_column,
            "group_column": group_column,
            **{f"split_lists.{split}": path for split, path in parse_overrides(split_list, "--split-list").items()},
        }
        fields = {f"data.{name}": value for name, value in given.items() if value is not None}
        if no_split_column:
            fields["data.split_column"] = None
        fields |= parse_overrides(overrides)
        if table.endswith((".yaml", ".yml")):
            recipe = load_recipe(table, fields)
        else:
            fields |= {"data.table": table, "name": "check-data", "model.id": "bundled"}
            recipe = parse_recipe({"method": method or DEFAULT_METHOD}, fields, source="check-data")
        surveys = surveys_of(recipe)
        typer.echo(render_surveys(surveys))
        if write_list:
            write_list.write_text("".join(render_unreadable(survey) for _, survey in surveys), encoding="utf-8")
            count = sum(survey.unreadable.num_rows for _, survey in surveys)
            typer.echo(f"\nAll {count} missing or unreadable images are in {write_list}")
        raise typer.Exit(1 if any(survey.problems for _, survey in surveys) else 0)
