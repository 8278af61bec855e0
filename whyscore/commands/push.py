"""Commands that publish a model."""

from typing import Annotated

import typer

from whyscore.commands.terminal import Overrides, RecipePath, errors_for_people, parse_overrides, quiet_libraries


def push(
    recipe: RecipePath,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model's repository on the hub")],
    yes: Annotated[bool, typer.Option("--yes", help="Upload; else only show what would be uploaded")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may read the repository; else it is private")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Licence of the model, e.g. apache-2.0; known for the bundled base alone")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="OWNER/NAME", help="Data set on the hub that it was trained on")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of a repository that exists")
    ] = False,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="The adapter without its base")] = False,
    iteration: Annotated[int | None, typer.Option(help="Iteration of the model; else the best model")] = None,
    kind: Annotated[str | None, typer.Option(help="score, consistency or merged; else the best model")] = None,
    overrides: Overrides = None,
) -> None:
    """Put the model of a run with a model card on the Hugging Face hub; without --yes only show what it would do."""
    with errors_for_people():
        quiet_libraries()
        from pathlib import Path
        from tempfile import TemporaryDirectory

        from pipeline_lib.config.load import load_recipe
        from pipeline_lib.store import ArtifactStore
        from pipeline_lib.use.push import check_name, prepare
        from pipeline_lib.use.push import push as upload

        check_name(repository)
        parsed = load_recipe(recipe, parse_overrides(overrides))
        with TemporaryDirectory(prefix="whyscore-push-") as temporary:
            folder = Path(temporary) / "model"
            found = prepare(
                ArtifactStore(parsed.runtime.store),
                parsed,
                repository,
                folder,
                licence=license,
                data_sets=dataset or (),
                iteration=iteration,
                kind=kind,
                adapter_only=adapter_only,
            )
            if not yes:
                typer.echo(f"README.md, the model card:\n\n{found.card}")
            where = "public" if public else "private"
            typer.echo(f"{found.model} of run {parsed.name} for {repository} ({where}), {len(found.files)} files:")
            for name, size in found.files:
                typer.echo(f"  {size:>15,} bytes  {name}")
            typer.echo(f"  {sum(size for _, size in found.files):>15,} bytes in all")
            if not yes:
                if found.licence is None:
                    typer.echo("The card has no licence: give --license.")
                typer.echo("Nothing was uploaded; add --yes to do so.")
                return
            typer.echo(f"Uploaded: {upload(found, folder, private=not public, overwrite=overwrite)}")
