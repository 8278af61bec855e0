"""Shared by the comparison of seeds: what a finished run has to compare, and the folder of the comparison."""

from collections.abc import Mapping

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.store.key import read_reference
from pipeline_lib.store.runs import RunFolder, RunModel, control_name, folder_of, read_run, seeds_name
from tasks.common.compare_seeds import SeedModel

SEEDS = "seeds"
"""The field of a comparison's `run.json` that holds its seeds."""


def models_to_compare(store: ArtifactStore, seed: int, recipe: BaseRecipe, *, controls: bool) -> list[SeedModel]:
    """Zero-shot and final model of the finished run of a seed, and the final model of its control.

    Raises `RecipeError` when the run or its control evaluates no model before and after training.
    """
    zero_shot, final = _ends(run := _read(store, recipe.name), recipe.method)
    found = [
        SeedModel(seed=seed, model="zero-shot", measured=_measured(run, zero_shot)),
        SeedModel(seed=seed, model="final", measured=_measured(run, final)),
    ]
    if controls:
        _, final = _ends(control := _read(store, control_name(recipe.name)), recipe.method)
        found.append(SeedModel(seed=seed, model="control", measured=_measured(control, final)))
    return found


def comparison_folder(
    store: ArtifactStore, name: str, recipes: Mapping[int, BaseRecipe], *, controls: bool
) -> RunFolder:
    """The folder of the comparison, with the table of images of the first seed's run.

    Raises `RecipeError` when the folder belongs to a run.
    """
    first = _read(store, next(iter(recipes.values())).name)
    of_runs = {recipe.name: recipe.run_fields() for recipe in recipes.values()}
    fields = {"name": seeds_name(name), SEEDS: list(recipes), "controls": controls, "runs": of_runs}
    found = read_run(store, seeds_name(name))
    if found is not None and SEEDS not in found.fields:
        raise RecipeError(
            f"{store.path(folder_of(seeds_name(name)))} is the folder of the comparison of seeds of {name}, but a run"
            f" of the name {seeds_name(name)} is there; give one of the two recipes another name"
        )
    folder = RunFolder(store, seeds_name(name), fields, first.images)
    folder.begin()
    return folder


def _read(store: ArtifactStore, name: str) -> RunFolder:
    run = read_run(store, name)
    if run is None:
        raise StoreError(f"{store.root} has nothing of run {name}, which has just been made; was it removed?")
    return run


def _ends(run: RunFolder, method: str) -> tuple[RunModel, RunModel]:
    ends = run.ends()
    if ends is None:
        raise RecipeError(
            f"run {run.name}: method {method} keeps no model that was evaluated before and after training, so there is"
            " nothing to compare over seeds"
        )
    return ends


def _measured(run: RunFolder, model: RunModel) -> dict[str, ArtifactRef]:
    """The artifacts of a model that hold figures, by their roles."""
    prefix = model.role("")
    found: dict[str, ArtifactRef] = {}
    for role, pointer in sorted(run.pointers().items()):
        if not role.startswith(prefix):
            continue
        ref = read_reference(pointer)
        manifest = run.store.lookup(ref.address)
        if isinstance(manifest, Manifest) and "metrics" in manifest.tables:
            found[role.removeprefix(prefix)] = ref
    return found
