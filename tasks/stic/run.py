"""The beginning of every flow (checked recipe, images, questions, base model), and the evaluation of each model."""

from dataclasses import dataclass, replace

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.table import read_image_list
from pipeline_lib.methods.stic.prompt import Prompts, load_prompts
from pipeline_lib.methods.stic.questions import fingerprint, read_questions
from pipeline_lib.methods.stic.recipe import QuestionData, SticRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from tasks.common import run as common
from tasks.common.list_images import list_images
from tasks.stage import At
from tasks.stage.plan import is_planning
from tasks.stic.describe import describe
from tasks.stic.evaluate_answers import evaluate_answers
from tasks.stic.list_questions import list_questions
from tasks.stic.report import EvaluatedModel, Kind

STAGE_OF: dict[Kind, int] = {"base": 0, "preferences": 1, "infused": 2}
"""The stage of training that each model comes from; the folders of a run call it iteration."""


@dataclass(frozen=True)
class Run(common.Run[SticRecipe]):
    """A run: its prompts, the base, the unlabelled images, the instructions and the questions to measure with."""

    prompts: Prompts
    model: ModelRef
    images: ImageSet
    instructions: ImageSet
    questions: ImageSet
    label: str = ""

    @property
    def at(self) -> At:
        """How and where stages are computed."""
        return At.beginning(self.recipe.runtime, self.label)

    def descriptions(self, at: At, model: ModelRef, images: ImageSet) -> ArtifactRef:
        """A model's descriptions of images, as they are put before questions."""
        recipe = self.recipe
        return describe(
            at,
            self.prompts.describe,
            recipe.describe_temperature,
            model,
            images,
            recipe.model.max_new_tokens,
            recipe.seed,
        )


def prepare(recipe: SticRecipe) -> Run:
    """Check store, prompts, model and tables, in the order of their cost, and read the images."""
    runtime, store = recipe.runtime, ArtifactStore(recipe.runtime.store)
    prompts, model = load_prompts(recipe.prompts), resolve_model(recipe.model, store)
    common.check_before(recipe, store, model)
    image_list = read_image_list(recipe.data, recipe.seed, {"train": 1})
    instructions = _questions(recipe, "instructions", recipe.instructions, store)
    questions = _questions(recipe, "questions", recipe.questions, store)
    table = list_images(At(runtime), recipe.data, recipe.seed, common.image_fingerprint(image_list, store))
    images = ImageSet.of(recipe.data, table, runtime)
    common.check_near_duplicates(recipe, At(runtime), images)
    run = Run(
        recipe,
        common.run_folder(recipe, store, table),
        prompts,
        model,
        images,
        instructions,
        questions,
    )
    run.keep("images", table)
    run.keep("instructions", instructions.table)
    run.keep("questions", questions.table)
    return run


def _questions(recipe: SticRecipe, label: str, data: QuestionData, store: ArtifactStore) -> ImageSet:
    digest = fingerprint(read_questions(data, recipe.seed), store, keep=not is_planning())
    table = list_questions(At(recipe.runtime, label), data.listing, recipe.seed, digest)
    return ImageSet.of(data.image_data, table, recipe.runtime)


def evaluate(
    run: Run,
    kind: Kind,
    model: ModelRef,
    training: ArtifactRef | None = None,
) -> EvaluatedModel:
    """Everything for one model: its descriptions of the questions' images, and its answers in both ways."""
    recipe, number = run.recipe, STAGE_OF[kind]
    at, folder = run.at.labelled(kind), f"iteration-{number:02d}/{kind}"
    descriptions = run.descriptions(at, model, run.questions)
    predictions = evaluate_answers(
        at,
        recipe.questions.how,
        recipe.evaluation.bootstrap,
        run.prompts.infused,
        model,
        run.questions,
        descriptions,
        recipe.seed,
    )
    run.keep(f"{folder}/descriptions", descriptions)
    run.keep(f"{folder}/predictions", predictions)
    return EvaluatedModel(kind=kind, predictions=predictions, training=training)


def control_of(run: Run) -> Run:
    """The control of a run: the same recipe, data and base, with exchanged preferences."""
    return replace(run, folder=common.control_folder(run.folder, run.images.table), label="control")


def finished_control(run: Run, base: EvaluatedModel) -> EvaluatedModel | None:
    """The final model of the control of this run; None when there is none, or it began from another base."""
    folder = common.finished_control(run.folder)
    if folder is None:
        return None
    of_base, last = (folder.find(f"iteration-{STAGE_OF[kind]:02d}/{kind}/predictions") for kind in ("base", "infused"))
    if last is None or of_base != base.predictions:
        return None
    return EvaluatedModel(kind="infused", predictions=last, training=folder.find("model"))
