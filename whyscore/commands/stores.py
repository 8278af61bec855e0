"""Commands that show a store or free space in it."""

from pathlib import Path
from typing import Annotated

import typer

from whyscore.commands.terminal import (
    Overrides,
    RecipePath,
    at_home,
    errors_for_people,
    parse_overrides,
    print_results,
    show_log,
)


def status(
    recipe: Annotated[Path | None, typer.Argument(help="Only the run of this recipe, its seeds and controls")] = None,
    store: Annotated[
        str | None, typer.Option(callback=at_home, help="Folder or s3://bucket/prefix; else the recipe's")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Show how far the runs in a store are, their newest figures, and the stages under way."""
    with errors_for_people():
        from pipeline_lib.checks.status import store_status
        from pipeline_lib.config.load import load_recipe
        from pipeline_lib.store import ArtifactStore
        from pipeline_lib.store.runs import belonging_to, read_run
        from pipeline_lib.store.runs import names as run_names

        show_log()
        names = price = None
        if recipe:
            parsed = load_recipe(recipe, parse_overrides(overrides))
            store, price = store or parsed.runtime.store, parsed.runtime.usd_per_device_hour
            names = belonging_to(parsed.name, run_names(ArtifactStore(store))) or [parsed.name]
            if run := read_run(ArtifactStore(store), parsed.name):
                run.check(parsed)
        typer.echo(store_status(ArtifactStore(store or "whyscore-data/store"), names, price))


def report(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Print the results of a finished run and the path of its report; compute nothing."""
    with errors_for_people():
        from pipeline_lib.config.load import load_recipe
        from pipeline_lib.errors import StoreError
        from pipeline_lib.store import ArtifactStore
        from pipeline_lib.store.runs import open_run

        parsed = load_recipe(recipe, parse_overrides(overrides))
        store = ArtifactStore(parsed.runtime.store)
        if open_run(store, parsed).find("report") is None:
            raise StoreError(
                f"{store.root} has no report of run {parsed.name}; `whyscore status {recipe}` says how far it is,"
                f" `whyscore run {recipe}` continues it"
            )
        print_results(store, parsed.name)


def verify(
    store: Annotated[
        str, typer.Argument(callback=at_home, help="Folder or s3://bucket/prefix")
    ] = "whyscore-data/store",
) -> None:
    """Check the digest of every file of every artifact in a store."""
    with errors_for_people():
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


def gc(
    store: Annotated[str, typer.Option(callback=at_home, help="Folder or s3://bucket/prefix")] = "whyscore-data/store",
    apply: Annotated[bool, typer.Option("--apply", help="Remove the files; else they are only counted")] = False,
    days: Annotated[float, typer.Option(min=0, help="Keep files that are newer; runs may be under way")] = 14,
    forget: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Remove this run; its artifacts go if no other needs them")
    ] = None,
) -> None:
    """Remove what no run in a store needs; without --apply only list it."""
    with errors_for_people():
        from pipeline_lib.errors import StoreError
        from pipeline_lib.store import ArtifactStore
        from pipeline_lib.store.gc import garbage, remove
        from pipeline_lib.store.runs import names

        artifacts = ArtifactStore(store)
        runs = names(artifacts)
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
