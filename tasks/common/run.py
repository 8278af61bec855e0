"""Shared by the runs of all methods: the checks before the first stage, and the run's folder."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.leaks import leaked, refuse_leaks
from pipeline_lib.data.near_duplicates import NearDuplicate, refuse_near_duplicates
from pipeline_lib.data.table import ImageList, fingerprint
from pipeline_lib.data.user_table import image_folder
from pipeline_lib.device import check_memory
from pipeline_lib.errors import RecipeError
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.store.runs import RunFolder, control_name, copied, folder_of, read_run
from pipeline_lib.trackers.tracker import check_trackers
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.shapes import check_shapes_of
from tasks.common.find_near_duplicates import find_near_duplicates
from tasks.stage import At, trackers, with_whole_inputs
from tasks.stage.cards import show_recipe, show_report
from tasks.stage.gpu_pool import pool_deployment
from tasks.stage.plan import is_planning, note_role
from tasks.stage.shards import check_workers
from tasks.stage.whole_run import end_of_run, expect_stages

log = logging.getLogger("whyscore.run")

Recipe = TypeVar("Recipe", bound=BaseRecipe)

CONTROL_OF = "control_of"
"""The field of a control's `run.json` that holds the id of the run that it is the control of."""


@dataclass(frozen=True)
class Run(Generic[Recipe]):
    """Values that all stages of a run share; a method adds its own."""

    recipe: Recipe
    folder: RunFolder

    @property
    def store(self) -> ArtifactStore:
        """Where the artifacts are."""
        return self.folder.store

    @property
    def at(self) -> At:
        """How and where stages are computed."""
        return At(self.recipe.runtime)

    def keep(self, role: str, ref: ArtifactRef) -> ArtifactRef:
        """Write the pointer that tells people which artifact has this role in the run."""
        if is_planning():
            note_role(self.folder.name, role, ref)
            return ref
        return self.folder.keep(role, ref)

    def begin(self) -> None:
        """Give the folder to this recipe: pointers of another recipe are no longer valid."""
        if not is_planning():
            self.folder.begin()
            expect_stages(self.store)

    def show(self, role: str, ref: ArtifactRef, folder: str) -> None:
        """Write the pointer of the last artifact, and copy its files into the run's folder."""
        if not is_planning():
            from pipeline_lib.report.provenance import filled

            # before the pointer, which says that the copy is of this run
            price = self.recipe.runtime.usd_per_device_hour
            with_whole_inputs(self.store, lambda: self.folder.copy_out(ref, folder, filled(self.store, ref, price)))
            show_page(self.store, self.folder.name, folder, ref)
        self.keep(role, ref)

    def end(self) -> None:
        """Remove the pointers of other recipes."""
        if not is_planning():
            self.folder.end()
            end_of_run(self.recipe.runtime.usd_per_device_hour)
            trackers.flush(self.recipe.runtime)


def show_page(store: ArtifactStore, name: str, folder: str, ref: ArtifactRef) -> None:
    """Link the page that was copied into a folder of a run from the flow run's page in the UI."""
    manifest = store.lookup(ref.address)
    pages = [file for file in manifest.files if file.endswith(".html")] if isinstance(manifest, Manifest) else []
    for page in pages:
        show_report(store, copied(store, name, folder, page), ref)


def check_before(recipe: BaseRecipe, store: ArtifactStore, model: ModelRef) -> None:
    """Show the recipe in the UI; raise `WhyScoreError` unless store, memory and workers can take its run."""
    if is_planning():
        return
    show_recipe(recipe)
    check_trackers(recipe.runtime.trackers)
    store.check_writable()
    store.check_space()
    if not pool_deployment():  # else the worker checks its own memory
        check_memory(recipe.runtime)
    check_workers(recipe.runtime, model.location, image_folder(recipe.data))


def image_fingerprint(images: ImageList, store: ArtifactStore) -> str:
    """The digest of the rows and of the image files; the store keeps those of the files, except in a plan."""
    return fingerprint(images, store, keep=not is_planning())


def check_near_duplicates(recipe: BaseRecipe, at: At, images: ImageSet) -> None:
    """Keep the limits of copies and of near-duplicates between splits, if there is one; raises `DataError` above it."""
    data, limit = recipe.data, recipe.data.max_near_duplicate_fraction
    store = ArtifactStore(recipe.runtime.store)
    read = partial(with_whole_inputs, store)
    if not is_planning():
        table = read(lambda: store.read_table(images.table.address, "images"))
        names, digests, splits = (table[name].to_pylist() for name in ("image", "image_sha256", "split"))
        refuse_leaks(names, digests, splits, limit)
        if copies := leaked(digests, splits):
            log.warning("%d validation and test images are copies of images of another split", len(copies))
    if limit is None:
        return
    found = find_near_duplicates(at, images, data.near_duplicate_bits)
    if is_planning():
        return
    place = {name: at for at, name in enumerate(names)}
    pairs = [
        NearDuplicate(place[row["image"]], place[row["other_image"]], row["bits"], row["correlation"])
        for row in read(lambda: store.read_table(found.address, "near_duplicates")).to_pylist()
    ]
    refuse_near_duplicates(pairs, names, splits, limit)


def check_shapes(store: ArtifactStore, model: ModelRef, images: ImageSet) -> None:
    """Raise `DataError` for images of a shape that the model's family refuses."""
    if not is_planning():
        check_shapes_of(with_whole_inputs(store, lambda: store.read_table(images.table.address, "images")), model)


def run_folder(recipe: BaseRecipe, store: ArtifactStore, images: ArtifactRef) -> RunFolder:
    """The folder of the run of a recipe on a table of images.

    It becomes this recipe's when it has no recipe; an experiment leaves the folder to its run.
    """
    folder = RunFolder(store, recipe.name, recipe.run_fields(), images)
    if not is_planning() and read_run(store, recipe.name) is None:
        folder.begin()
    return folder


def control_folder(run: RunFolder, images: ArtifactRef) -> RunFolder:
    """The folder of the control of a run, which trains on another table of images.

    Raises `RecipeError` when the folder belongs to a run that is not a control.
    """
    name = control_name(run.name)
    found = read_run(run.store, name)
    if found is not None and CONTROL_OF not in found.fields:
        raise RecipeError(
            f"{run.store.path(folder_of(name))} is the folder of the control of run {run.name}, but a run of the name"
            f" {name} is there; give one of the two recipes another name"
        )
    folder = RunFolder(run.store, name, {**run.fields, "name": name, CONTROL_OF: run.id}, images)
    if not is_planning() and (found is None or found.id != folder.id):
        folder.begin()
    return folder


def finished_control(run: RunFolder) -> RunFolder | None:
    """The folder of the control of this run; None when there is none, or it is the control of another recipe."""
    folder = read_run(run.store, control_name(run.name))
    return folder if folder and folder.fields.get(CONTROL_OF) == run.id else None
