"""The beginning of every flow (checked recipe, images, base model), and the evaluation of each model."""

import json
import logging
from dataclasses import dataclass
from typing import Literal

from pipeline_lib.config.base import Model, NamedData, Split
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.table import read_image_list
from pipeline_lib.device import check_weights
from pipeline_lib.judges.vlm_judge import load_judge_prompt
from pipeline_lib.methods.self_improve.before_run import check_judge, few_validation_images
from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import read_run
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from tasks.common import run as common
from tasks.common.list_images import list_images
from tasks.self_improve.check_model import check_model
from tasks.self_improve.discretize import discretize
from tasks.self_improve.evaluate import evaluate
from tasks.self_improve.evaluate_also import evaluate_also
from tasks.self_improve.judge import judge
from tasks.self_improve.judge_openai import judge_openai
from tasks.self_improve.judge_vlm import judge_vlm
from tasks.self_improve.permute_scores import permute_scores
from tasks.self_improve.probe_faithfulness import probe_faithfulness
from tasks.self_improve.report import EvaluatedModel, EvaluatedOther
from tasks.stage import At, with_whole_inputs
from tasks.stage.gpu_pool import pool_deployment
from tasks.stage.plan import is_planning

log = logging.getLogger("whyscore.run")

SMALL = 100_000_000
"""Parameters of a model that fits every machine."""

Kind = Literal["zero-shot", "score", "consistency", "merged"]


@dataclass(frozen=True)
class Run(common.Run[SelfImproveRecipe]):
    """A run; `base` is the base model with the prompt and the images that it trains on.

    Models are evaluated on the images in `evaluated_on`. They differ from the others in a control alone, which trains
    on permuted scores and is measured on the true ones. `label` begins the labels of all stages.
    """

    base: GenerationInputs
    evaluated_on: ImageSet
    label: str = ""
    vlm_judge: ModelRef | None = None  # the judge that sees the image

    @property
    def at(self) -> At:
        """How and where stages are computed."""
        return At.beginning(self.recipe.runtime, self.label)


def prepare(recipe: SelfImproveRecipe) -> Run:
    """Check store, prompt, model and table, in the order of their cost, and discretise the scores."""
    runtime, store = recipe.runtime, ArtifactStore(recipe.runtime.store)
    prompt, model = load_prompt(recipe.prompt), resolve_model(recipe.model, store)
    vlm_judge = resolve_vlm_judge(recipe, store)
    common.check_before(recipe, store, model)
    image_list = read_image_list(recipe.data, recipe.seed, LEAST_IMAGES)
    _check_what_comes_last(recipe, store)
    if few := few_validation_images(int((image_list.rows["split"] == "val").sum())):
        log.warning("%s", few)
    facts = check_model(At(runtime, "base"), model, prompt)
    table = discretize(At(runtime), recipe.data, recipe.seed, common.image_fingerprint(image_list, store))
    images = ImageSet.of(recipe.data, table, runtime)
    common.check_near_duplicates(recipe, At(runtime), images)
    common.check_shapes(store, model, images)
    _check_weights(recipe, store, facts)
    base = GenerationInputs(model=model, prompt=prompt, images=images, max_new_tokens=recipe.model.max_new_tokens)
    run = Run(recipe, common.run_folder(recipe, store, table), base, images, vlm_judge=vlm_judge)
    run.keep("images", table)
    run.keep("model_facts", facts)
    return run


def _check_what_comes_last(recipe: SelfImproveRecipe, store: ArtifactStore) -> None:
    """Raise an error for a judge model or other data set that a run asks for hours later.

    A run that has ended needs none of them again.
    """
    before = read_run(store, recipe.name)
    if is_planning() or (before and before.fields == recipe.run_fields() and before.find("report")):
        return
    check_judge(recipe.judge.openai, recipe.runtime.openai)
    for data in recipe.evaluation.also:
        read_image_list(data, recipe.seed)


def _check_weights(recipe: SelfImproveRecipe, store: ArtifactStore, facts: ArtifactRef) -> None:
    """Raise `ModelError` when the device that computes stages has less memory than the weights need."""
    if is_planning() or pool_deployment():
        return
    found = json.loads(with_whole_inputs(store, lambda: store.read_file(facts.address, "model_facts.json")))
    if found["parameters"] > SMALL:  # else torch need not be imported
        check_weights(found["parameters"], recipe.model.dtype, recipe.runtime)


def resolve_vlm_judge(recipe: SelfImproveRecipe, store: ArtifactStore) -> ModelRef | None:
    """The judge of `judge.vlm`, with its prompt checked; None when the recipe names none."""
    config = recipe.judge.vlm
    if config.from_run is None:
        return None
    load_judge_prompt(config.prompt)
    image = recipe.model.model_dump(include={"dtype", "resize_px", "max_tiles"})
    return resolve_model(Model.model_validate(image | {"from_run": config.from_run}), store)


def evaluate_and_judge(
    run: Run,
    fitted_judge: ArtifactRef,
    iteration: int,
    kind: Kind,
    inputs: GenerationInputs,
    training: ArtifactRef | None = None,
    pairs: ArtifactRef | None = None,
) -> EvaluatedModel:
    """Everything for one row of the paper's Table 1."""
    recipe, seed = run.recipe, run.recipe.seed
    is_branch = iteration > 1 and kind != "merged"
    splits: tuple[Split, ...] = ("val",) if is_branch and recipe.evaluation.branches == "val" else ("val", "test")
    at, folder = run.at.labelled(f"ite-{iteration} {kind}" if iteration else kind), f"iteration-{iteration:02d}/{kind}"
    inputs = inputs.model_copy(update={"images": run.evaluated_on})
    predictions = evaluate(at, recipe.evaluation, inputs, splits, seed)
    verdicts = judge(at, recipe.judge.rows, recipe.evaluation.bootstrap, fitted_judge, predictions, seed)
    run.keep(f"{folder}/predictions", predictions)
    run.keep(f"{folder}/verdicts", verdicts)
    openai_verdicts = vlm_verdicts = faithfulness = None
    if recipe.judge.openai.model and "test" in splits:
        openai_verdicts = ask_judge_model(run, at, predictions)
        run.keep(f"{folder}/openai_verdicts", openai_verdicts)
    if run.vlm_judge is not None and "test" in splits:
        vlm_verdicts = judge_vlm(
            at,
            recipe.judge.vlm,
            load_judge_prompt(recipe.judge.vlm.prompt),
            run.vlm_judge,
            run.evaluated_on,
            inputs.prompt.criterion,
            recipe.evaluation.bootstrap,
            fitted_judge,
            predictions,
            seed,
        )
        run.keep(f"{folder}/vlm_verdicts", vlm_verdicts)
    if recipe.faithfulness.rows and "test" in splits:
        faithfulness = probe_faithfulness(
            at, recipe.faithfulness, recipe.evaluation.bootstrap, inputs, fitted_judge, predictions, seed
        )
        run.keep(f"{folder}/faithfulness", faithfulness)
    return EvaluatedModel(
        iteration=iteration,
        kind=kind,
        tested="test" in splits,
        predictions=predictions,
        verdicts=verdicts,
        openai_verdicts=openai_verdicts,
        vlm_verdicts=vlm_verdicts,
        faithfulness=faithfulness,
        training=training,
        pairs=pairs,
    )


def evaluate_other_data(
    run: Run, data: NamedData, inputs: GenerationInputs, evaluated: EvaluatedModel
) -> EvaluatedOther:
    """A model on another labelled data set; predictions use the reference values of its own evaluation."""
    recipe, at = run.recipe, run.at.labelled(f"also {data.name}")
    listed = read_image_list(data, recipe.seed)
    images = list_images(at, data, recipe.seed, common.image_fingerprint(listed, run.store))
    asked = inputs.model_copy(update={"images": ImageSet.of(data, images, recipe.runtime)})
    name = f"ite-{evaluated.iteration} {evaluated.kind}" if evaluated.iteration else evaluated.kind
    predictions = evaluate_also(
        run.at.labelled(f"{name} also {data.name}"),
        recipe.evaluation.bootstrap,
        asked,
        evaluated.predictions,
        recipe.seed,
    )
    run.keep(f"also/{data.name}/iteration-{evaluated.iteration:02d}", predictions)
    return EvaluatedOther(data=data.name, iteration=evaluated.iteration, kind=evaluated.kind, predictions=predictions)


def control_of(run: Run) -> Run:
    """The control of a run: the same recipe, base and evaluation, with permuted training scores."""
    at = At.beginning(run.recipe.runtime, "control")
    permuted = permute_scores(at, run.base.images.table, run.recipe.seed)
    base = run.base.model_copy(update={"images": run.base.images.model_copy(update={"table": permuted})})
    control = Run(
        run.recipe, common.control_folder(run.folder, permuted), base, run.evaluated_on, at.label, run.vlm_judge
    )
    control.keep("images", permuted)
    return control


def ask_judge_model(run: Run, at: At, predictions: ArtifactRef) -> ArtifactRef:
    """Let the recipe's judge model rate the explanations of the test images."""
    judge_config = run.recipe.judge
    return judge_openai(
        at,
        judge_config.openai,
        judge_config.rows,
        load_rubric(judge_config.openai.rubric),
        run.base.prompt.criterion,
        run.recipe.evaluation.bootstrap,
        predictions,
        run.recipe.seed,
    )
