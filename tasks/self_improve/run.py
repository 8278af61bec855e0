"""What every flow begins with: a checked recipe, its photographs, its base model; and how each model is evaluated."""

from typing import Literal, NamedTuple

from pipeline_lib.config.base import Split
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.table import fingerprint, read_image_list
from pipeline_lib.data.user_table import image_folder
from pipeline_lib.device import check_memory
from pipeline_lib.methods.self_improve.prompt import Prompt, load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from tasks.self_improve.check_model import check_model
from tasks.self_improve.discretize import discretize
from tasks.self_improve.evaluate import evaluate
from tasks.self_improve.judge import judge
from tasks.self_improve.judge_openai import judge_openai
from tasks.self_improve.probe_faithfulness import probe_faithfulness
from tasks.self_improve.report import EvaluatedModel
from tasks.stage.cards import show_recipe
from tasks.stage.gpu_pool import pool_deployment
from tasks.stage.shards import check_workers

Kind = Literal["zero-shot", "score", "consistency", "merged"]


class Setting(NamedTuple):
    """What all stages of one run share."""

    recipe: SelfImproveRecipe
    store: ArtifactStore
    prompt: Prompt
    base: ModelRef
    image_set: ImageSet
    folder: RunFolder

    def keep(self, role: str, ref: ArtifactRef) -> ArtifactRef:
        """Write the pointer that tells people which artifact has this role in the run."""
        return self.folder.keep(role, ref)


def prepare(recipe: SelfImproveRecipe) -> Setting:
    """Check store, prompt, model and table, in the order of their cost, and discretise the scores."""
    at = recipe.runtime
    show_recipe(recipe)
    store = ArtifactStore(at.store)
    store.check_writable()
    if not pool_deployment():  # else the worker that computes looks at its own
        check_memory(at)
    prompt, base = load_prompt(recipe.prompt), resolve_model(recipe.model)
    check_workers(at, base.location, image_folder(recipe.data))
    image_list = read_image_list(recipe.data, recipe.seed)
    facts = check_model(at, base, prompt, label="base")
    table = discretize(at, recipe.data, recipe.seed, fingerprint(image_list))
    folder = RunFolder(store, recipe.name, recipe.run_fields(), table)
    folder.begin()
    setting = Setting(recipe, store, prompt, base, ImageSet.of(recipe.data, table, recipe.runtime), folder)
    setting.keep("model_facts", facts)
    setting.keep("images", table)
    return setting


def evaluate_and_judge(
    setting: Setting,
    fitted_judge: ArtifactRef,
    iteration: int,
    kind: Kind,
    model: ModelRef,
    training: ArtifactRef | None = None,
) -> EvaluatedModel:
    """Everything that one row of the paper's Table 1 needs."""
    recipe, at, seed = setting.recipe, setting.recipe.runtime, setting.recipe.seed
    is_branch = iteration > 1 and kind != "merged"
    splits: tuple[Split, ...] = ("val",) if is_branch and recipe.evaluation.branches == "val" else ("val", "test")
    name, folder = (f"ite-{iteration} {kind}" if iteration else kind), f"iteration-{iteration:02d}/{kind}"
    predictions = evaluate(at, recipe.evaluation, setting.prompt, model, setting.image_set, splits, seed, label=name)
    verdicts = judge(at, recipe.judge.rows, recipe.evaluation, fitted_judge, predictions, seed, label=name)
    setting.keep(f"{folder}/predictions", predictions)
    setting.keep(f"{folder}/verdicts", verdicts)
    openai_verdicts = faithfulness = None
    if recipe.judge.openai.model and "test" in splits:
        openai_verdicts = judge_openai(
            at, recipe.judge.openai, recipe.judge.rows, load_rubric(recipe.judge.openai.rubric),
            setting.prompt.criterion, recipe.evaluation, predictions, seed, label=name,
        )  # fmt: skip
        setting.keep(f"{folder}/openai_verdicts", openai_verdicts)
    if recipe.faithfulness.rows and "test" in splits:
        faithfulness = probe_faithfulness(
            at, recipe.faithfulness, recipe.evaluation, setting.prompt, model, setting.image_set, fitted_judge,
            predictions, seed, label=name,
        )  # fmt: skip
        setting.keep(f"{folder}/faithfulness", faithfulness)
    return EvaluatedModel(
        iteration=iteration,
        kind=kind,
        tested="test" in splits,
        predictions=predictions,
        verdicts=verdicts,
        openai_verdicts=openai_verdicts,
        faithfulness=faithfulness,
        training=training,
    )
