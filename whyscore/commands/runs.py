"""Commands that compute: runs, experiments beside them, and another judge."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whyscore.commands.terminal import (
    Overrides,
    RecipePath,
    errors_for_people,
    local_path,
    parse_overrides,
    prepare_prefect,
    print_results,
)


def run(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Run the recipe's method; run it again to resume, or to see that nothing is left to do."""
    with errors_for_people():
        from pipeline_lib.config.load import load_recipe

        _run(load_recipe(recipe, parse_overrides(overrides)))


def plan(
    recipe: RecipePath,
    control: Annotated[bool, typer.Option("--control", help="Of `whyscore control`: the run and its control")] = False,
    seeds: Annotated[str | None, typer.Option(help="Of `whyscore seeds`: the run of each seed, e.g. 1,2,3")] = None,
    overrides: Overrides = None,
) -> None:
    """Show every stage of a run, cached or not, and why its key differs from the last run's; compute nothing."""
    with errors_for_people():
        from pipeline_lib.checks.plan import plan_text
        from pipeline_lib.checks.time_left import plan_notes
        from pipeline_lib.config.load import load_recipe
        from pipeline_lib.config.seeds import recipe_of_seed
        from pipeline_lib.store import ArtifactStore

        parsed = load_recipe(recipe, parse_overrides(overrides))
        recipes = [parsed] if seeds is None else [recipe_of_seed(parsed, seed) for seed in _numbers(seeds)]
        if control:
            _check_has_control(parsed)
        prepare_prefect()
        from importlib import import_module

        from tasks.stage.plan import plan as plan_flow

        module, name = f"flows.{parsed.method}", parsed.method
        if control:
            module, name = f"flows.controls.{parsed.method}", f"{parsed.method}_control"
        flow = getattr(import_module(module), name)
        for of in recipes:
            if seeds is not None:
                typer.echo(f"Run {of.name}")
            store, planned = ArtifactStore(of.runtime.store), plan_flow(flow.fn, of)
            typer.echo(plan_text(store, planned, plan_notes(store, planned, of.runtime.usd_per_device_hour)))


def demo(
    method: Annotated[str, typer.Option(help="The method to try; `all`: each of them in turn")] = "self_improve",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data sets: another seed is other data")] = 0,
    folder: Annotated[
        Path, typer.Option(callback=local_path, help="Where the data sets and the store are kept")
    ] = Path("whyscore-data"),
    seeds: Annotated[str | None, typer.Option(help="Several data sets, e.g. 1,2,3, compared as `seeds` does")] = None,
    controls: Annotated[bool, typer.Option("--controls", help="With --seeds: the control of each run too")] = False,
    overrides: Overrides = None,
) -> None:
    """Self-train the bundled model on bundled images: minutes on two cores, no network, no GPU."""
    with errors_for_people():
        from pipeline_lib.demo.recipes import demo_recipe, methods_with_demo

        changed = parse_overrides(overrides)
        for name in methods_with_demo() if method == "all" else [method]:
            if seeds is None:
                _run(demo_recipe(name, folder, seed, changed))
            else:
                recipes = {number: demo_recipe(name, folder, number, changed) for number in _numbers(seeds)}
                first = next(iter(recipes))
                _compare_seeds(recipes[first].name.removesuffix(f"-seed-{first}"), recipes, controls)


def demo_data(
    folder: Annotated[
        Path,
        typer.Argument(callback=local_path, help="Where the folders `unlabelled`, `questions` and `answer_pairs` go"),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Another seed is other images")] = 0,
) -> None:
    """Write images for methods without scores: variants of images, questions with answers, pairs of answers."""
    with errors_for_people():
        from pipeline_lib.demo.recipes import WRITERS

        for kind, write in WRITERS.items():
            if kind != "scores":
                typer.echo(write(folder / kind, seed))


def rejudge(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Let another judge model rate the anchors of every iteration; show its figures beside earlier judges'."""
    with errors_for_people():
        from pipeline_lib.config.load import load_recipe_of
        from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe

        parsed = load_recipe_of(SelfImproveRecipe, recipe, parse_overrides(overrides))
        prepare_prefect()
        from flows.rejudge import rejudge as rejudge_flow
        from whyscore.ephemeral_server import tie_server_to_this_process

        tie_server_to_this_process()
        typer.echo("\n" + rejudge_flow(parsed))


def control(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Run the recipe and its negative control, which trains on permuted data: a gain counts only beyond its control."""
    with errors_for_people():
        from pipeline_lib.config.load import load_recipe

        parsed = load_recipe(recipe, parse_overrides(overrides))
        _check_has_control(parsed)
        _run_flow(f"flows.controls.{parsed.method}", f"{parsed.method}_control", parsed)
        from pipeline_lib.store import ArtifactStore
        from pipeline_lib.store.runs import control_name, copied

        store = ArtifactStore(parsed.runtime.store)
        print_results(store, control_name(parsed.name))
        typer.echo(f"Report of the run, with its control: {copied(store, parsed.name, 'report', 'report.html')}")


def seeds(
    recipe: RecipePath,
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 1,2,3")],
    controls: Annotated[bool, typer.Option("--controls", help="Make the negative control of each run too")] = False,
    overrides: Overrides = None,
) -> None:
    """Run the recipe once a seed, and compare final with zero-shot models over seeds; run it again to resume."""
    with errors_for_people():
        from pipeline_lib.config.load import load_recipe
        from pipeline_lib.config.seeds import recipe_of_seed

        parsed = load_recipe(recipe, parse_overrides(overrides))
        _compare_seeds(parsed.name, {seed: recipe_of_seed(parsed, seed) for seed in _numbers(seeds)}, controls)


def ablation(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Compare self-training with supervised and with non-iterative training: the paper's Table 3 for this recipe."""
    _compare("ablation", recipe, overrides)


def grid_search(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Choose learning rate, beta and LoRA rank on validation, as the paper's appendix A.1 does."""
    _compare("grid_search", recipe, overrides)


def merge_ablation(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Compare ways of merging the two adapters of an iteration, on validation."""
    _compare("merge_ablation", recipe, overrides)


def _compare(experiment: str, path: Path, overrides: list[str] | None) -> None:
    with errors_for_people():
        from pipeline_lib.config.load import load_recipe_of
        from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe

        recipe = load_recipe_of(SelfImproveRecipe, path, parse_overrides(overrides))
        prepare_prefect()
        from importlib import import_module
        from tempfile import TemporaryDirectory

        from pipeline_lib.store import ArtifactStore
        from pipeline_lib.store.runs import copied
        from whyscore.ephemeral_server import tie_server_to_this_process

        tie_server_to_this_process()
        finished = getattr(import_module(f"flows.experiments.{experiment}"), experiment)(recipe)
        store = ArtifactStore(recipe.runtime.store)
        with TemporaryDirectory() as folder:
            store.fetch(finished.address, Path(folder))
            typer.echo("\n" + (Path(folder) / "comparison.txt").read_text(encoding="utf-8"))
        typer.echo(f"Page: {copied(store, recipe.name, experiment, 'comparison.html')}")


def _run(recipe: Any) -> None:
    """Run the flow that is named like the recipe's method."""
    _run_flow(f"flows.{recipe.method}", recipe.method, recipe)
    from pipeline_lib.store import ArtifactStore

    print_results(ArtifactStore(recipe.runtime.store), recipe.name)


def _run_flow(module: str, name: str, *arguments: Any) -> None:
    prepare_prefect()
    from importlib import import_module

    from whyscore.ephemeral_server import tie_server_to_this_process

    tie_server_to_this_process()
    getattr(import_module(module), name)(*arguments)


def _numbers(seeds: str) -> list[int]:
    """The numbers in `1,2,3`."""
    from pipeline_lib.config.seeds import check_seeds
    from pipeline_lib.errors import RecipeError

    try:
        found = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise RecipeError(f"--seeds {seeds}: write whole numbers with commas between them, e.g. 1,2,3") from None
    check_seeds(found)
    return found


def _compare_seeds(name: str, recipes: dict[int, Any], controls: bool) -> None:
    """Run the flow `seeds`, and print its results."""
    first = next(iter(recipes.values()))
    if controls:
        _check_has_control(first)
    _run_flow("flows.seeds", "seeds", name, recipes, controls)
    from pipeline_lib.store import ArtifactStore
    from pipeline_lib.store.runs import seeds_name

    print_results(ArtifactStore(first.runtime.store), seeds_name(name))


def _check_has_control(recipe: Any) -> None:
    from pipeline_lib.errors import RecipeError

    if not recipe.control:
        raise RecipeError(
            f"method {recipe.method} has no control; CONTRIBUTING.md says how a method gets one (a class variable"
            f" `control` of its recipe, and a flow in flows/controls/{recipe.method}.py)"
        )
