"""A recipe with several seeds, each an ordinary run, and what they say together."""

import logging
from importlib import import_module

from prefect import flow

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.config.seeds import check_seeds
from pipeline_lib.store import ArtifactRef, ArtifactStore
from tasks.common.compare_seeds import SeedModel, compare_seeds
from tasks.common.run import show_page
from tasks.common.seeds import comparison_folder, models_to_compare
from tasks.stage import At, with_whole_inputs

log = logging.getLogger("whyscore.seeds")


@flow(name="seeds", flow_run_name="{name}-seeds")
def seeds(name: str, recipes: dict[int, BaseRecipe], controls: bool = False) -> ArtifactRef:
    """Run the recipe of each seed, one after the other, and compare final with zero-shot models over seeds.

    Each is a run of its own name, so a killed comparison continues where it stopped, and a further seed costs one run.

    Args:
        name: Of the comparison: the folder runs/<name>-seeds/ in the store.
        recipes: The recipe of each seed (`pipeline_lib.config.seeds`), all of one method and store.
        controls: Make the negative control of each run too.
    """
    check_seeds(list(recipes))
    runtime = next(iter(recipes.values())).runtime
    store, models = ArtifactStore(runtime.store), list[SeedModel]()
    for at, (seed, recipe) in enumerate(recipes.items(), 1):
        log.info("seed %d (%d of %d): run %s", seed, at, len(recipes), recipe.name)
        if controls:
            getattr(import_module(f"flows.controls.{recipe.method}"), f"{recipe.method}_control")(recipe)
        else:
            getattr(import_module(f"flows.{recipe.method}"), recipe.method)(recipe)
        models += models_to_compare(store, seed, recipe, controls=controls)
    folder = comparison_folder(store, name, recipes, controls=controls)
    compared = compare_seeds(At(runtime), name, models)
    with_whole_inputs(store, lambda: folder.copy_out(compared, "report"))
    show_page(store, folder.name, "report", compared)
    folder.keep("report", compared)
    folder.end()
    return compared
