"""What a run of evo_quality begins with (checked recipe, images, base model), and the evaluation of each model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.table import read_image_list
from pipeline_lib.methods.evo_quality.figures import srcc_change
from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.pairs import LEAST_IMAGES
from pipeline_lib.methods.evo_quality.prompt import Prompts, load_prompts
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe, Labelled
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest, Miss
from pipeline_lib.store.key import key_fields
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from tasks.common import run as common
from tasks.common.list_images import list_images
from tasks.evo_quality.compare_with_votes import compare_with_votes
from tasks.evo_quality.evaluate_ratings import evaluate_ratings
from tasks.evo_quality.report import EvaluatedRound, Settings
from tasks.stage import At, with_whole_inputs
from tasks.stage.plan import PlanEnds, is_planning

log = logging.getLogger("whyscore.stage")


@dataclass(frozen=True)
class Run(common.Run[EvoQualityRecipe]):
    """A run; `images` are those without labels, `labelled` the data sets that measure it, by their names."""

    model: ModelRef
    prompts: Prompts
    images: ImageSet
    labelled: dict[str, ImageSet]
    stop: ImageSet | None
    label: str = ""

    @property
    def at(self) -> At:
        """How and where stages are computed."""
        return At.beginning(self.recipe.runtime, self.label)


def prepare(recipe: EvoQualityRecipe) -> Run:
    """Check store, prompts, model and tables, in the order of their cost, and list all images."""
    runtime, store = recipe.runtime, ArtifactStore(recipe.runtime.store)
    prompts, model = load_prompts(recipe.prompts), resolve_model(recipe.model, store)
    common.check_before(recipe, store, model)
    image_list = read_image_list(recipe.data, recipe.seed, LEAST_IMAGES)
    at, digest = At(runtime), common.image_fingerprint(image_list, store)
    table = list_images(at, recipe.data, recipe.seed, digest)
    images = ImageSet.of(recipe.data, table, runtime)
    common.check_near_duplicates(recipe, at, images)
    evaluation = recipe.evaluation
    labelled = {data.name: _list_labelled(recipe, data, store) for data in evaluation.labelled}
    stop = _list_labelled(recipe, evaluation.stop, store) if evaluation.stop else None
    for asked in (images, *labelled.values(), *([stop] if stop else [])):
        common.check_shapes(store, model, asked)
    run = Run(recipe, common.run_folder(recipe, store, table), model, prompts, images, labelled, stop)
    run.keep("images", table)
    return run


def _list_labelled(recipe: EvoQualityRecipe, data: Labelled, store: ArtifactStore) -> ImageSet:
    listed = read_image_list(data, recipe.seed)
    digest = common.image_fingerprint(listed, store)
    table = list_images(At(recipe.runtime, data.name), data, recipe.seed, digest)
    return ImageSet.of(data, table, recipe.runtime)


def control_of(run: Run) -> Run:
    """The control of a run: same images, base and evaluation, other labels of pairs."""
    folder = common.control_folder(run.folder, run.images.table)
    return replace(run, folder=folder, label="control")


def settings_of(run: Run) -> Settings:
    """What the report shows of the recipe."""
    return Settings(recipe=run.recipe, prompts=run.prompts)


def evaluate(
    run: Run,
    round_number: int,
    kind: Literal["zero-shot", "ranking"],
    rater: Rater,
    held_out: ArtifactRef,
    votes: ArtifactRef | None = None,
    training: ArtifactRef | None = None,
) -> EvaluatedRound:
    """The figures of a model: on each labelled data set, and beside the held-out votes.

    The first labelled data set is the main one, or the held-out votes where there is none.
    """
    recipe, seed = run.recipe, run.recipe.seed
    bootstrap, folder = recipe.evaluation.bootstrap, f"iteration-{round_number:02d}/{kind}"
    at = run.at.labelled(f"round-{round_number}" if round_number else kind)
    compared = compare_with_votes(at, bootstrap, rater, run.images, held_out, seed)
    labelled = {}
    for data in recipe.evaluation.labelled:
        of_data = at.labelled(f"{at.label.removeprefix(at.begins).strip()} {data.name}")
        labelled[data.name] = evaluate_ratings(of_data, bootstrap, rater, run.labelled[data.name], data.split, seed)
    main, *others = [*labelled.items(), ("held_out", compared)]
    run.keep(f"{folder}/predictions", main[1])
    for name, ref in others:
        run.keep(f"{folder}/on/{name}", ref)
    return EvaluatedRound(
        round_number=round_number, labelled=labelled, held_out=compared, votes=votes, training=training
    )


def fell_on_stop_set(run: Run, round_number: int, before: Rater, after: Rater) -> bool:
    """Whether a round has lowered SRCC on the small labelled set; never without one."""
    data = run.recipe.evaluation.stop
    if data is None or run.stop is None:
        return False
    at = run.at.labelled(f"round-{round_number} stop")
    bootstrap, seed = run.recipe.evaluation.bootstrap, run.recipe.seed
    both = [evaluate_ratings(at, bootstrap, rater, run.stop, data.split, seed) for rater in (before, after)]
    if any(isinstance(run.store.lookup(ref.address), Miss) for ref in both) and is_planning():
        raise PlanEnds
    first, second = with_whole_inputs(run.store, lambda: [run.store.read_table(ref.address, "ratings") for ref in both])
    word = srcc_change(first, second, bootstrap, seed)
    log.info("round %d: SRCC on %s, which only stops the rounds: %s", round_number, data.name, word)
    return word == "lowered"


def finished_control(run: Run, models: Sequence[EvaluatedRound]) -> ArtifactRef | None:
    """The comparison of these models of a run with its controls; None when there is none, or it is of other models."""
    folder = common.finished_control(run.folder)
    if folder is None:
        return None
    found = folder.find("report")
    manifest = run.store.lookup(found.address) if found else None
    compared = key_fields({"models": list(models)})
    if not isinstance(manifest, Manifest) or not compared.items() <= manifest.arguments.items():
        return None
    return found
