"""What the toy's flow begins with."""

from dataclasses import dataclass, replace

from pipeline_lib.methods.toy.recipe import ToyRecipe

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.table import read_image_list
from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from tasks.common import run as common
from tasks.common.list_images import list_images
from tasks.stage import At


@dataclass(frozen=True)
class Run(common.Run[ToyRecipe]):
    """A run, its model and its images."""

    model: ModelRef
    images: ImageSet
    label: str = ""

    @property
    def at(self) -> At:
        """How and where stages are computed."""
        return At.beginning(self.recipe.runtime, self.label)

    @property
    def name(self) -> str:
        """The name of the run or of its control."""
        return self.folder.name


def prepare(recipe: ToyRecipe) -> Run:
    """Check everything and list the images."""
    store = ArtifactStore(recipe.runtime.store)
    model = resolve_model(recipe.model, store)
    common.check_before(recipe, store, model)
    image_list = read_image_list(recipe.data, recipe.seed)
    digest = common.image_fingerprint(image_list, store)
    table = list_images(At(recipe.runtime), recipe.data, recipe.seed, digest)
    images = ImageSet.of(recipe.data, table, recipe.runtime)
    run = Run(recipe, common.run_folder(recipe, store, table), model, images)
    run.keep("images", table)
    return run


def control_of(run: Run) -> Run:
    """The control of a run, which has the same images."""
    return replace(run, folder=common.control_folder(run.folder, run.images.table), label="control")
