"""What every flow begins with: a checked recipe, its photographs, its base model; and how each model is evaluated."""

from typing import Literal, NamedTuple

from pipeline_lib.config.base import Split
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.table import fingerprint, read_image_list
from pipeline_lib.data.user_table import image_folder
from pipeline_lib.device import check_memory
from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder, read_run
from pipeline_lib.vlm.model_ref import resolve_model
from tasks.self_improve.check_model import check_model
from tasks.self_improve.discretize import discretize
from tasks.self_improve.evaluate import evaluate
from tasks.self_improve.judge import judge
from tasks.self_improve.judge_openai import judge_openai
from tasks.self_improve.probe_faithfulness import probe_faithfulness
from tasks.self_improve.report import EvaluatedModel
from tasks.stage import At
from tasks.stage.cards import show_recipe
from tasks.stage.gpu_pool import pool_deployment
from tasks.stage.plan import is_planning, note_role
from tasks.stage.shards import check_workers

Kind = Literal["zero-shot", "score", "consistency", "merged"]


class Run(NamedTuple):
    """What all stages of one run share; `base` is the base model with the prompt and the images."""

    recipe: SelfImproveRecipe
    store: ArtifactStore
    base: GenerationInputs
    folder: RunFolder

    @property
    def at(self) -> At:
        """How and where stages are computed."""
        return At(self.recipe.runtime)

    def keep(self, role: str, ref: ArtifactRef) -> ArtifactRef:
        """Write the pointer that tells people which artifact has this role in the run."""
        if is_planning():
            note_role(role, ref)
            return ref
        return self.folder.keep(role, ref)

    def begin(self) -> None:
        """Make the folder this recipe's: pointers of another one are not believed any more."""
        if not is_planning():
            self.folder.begin()

    def show(self, role: str, ref: ArtifactRef, folder: str) -> None:
        """Keep the last artifact, and copy its files into a folder of the run for people."""
        if is_planning():
            self.keep(role, ref)
            return
        self.folder.copy_out(ref, folder)  # before the pointer, which says that the copy is of this run
        self.keep(role, ref)

    def end(self) -> None:
        """Remove the pointers of other recipes."""
        if not is_planning():
            self.folder.end()


def prepare(recipe: SelfImproveRecipe) -> Run:
    """Check store, prompt, model and table, in the order of their cost, and discretise the scores."""
    runtime = recipe.runtime
    store, prompt = ArtifactStore(runtime.store), load_prompt(recipe.prompt)
    model = resolve_model(recipe.model, store)
    if not is_planning():
        show_recipe(recipe)
        store.check_writable()
        if not pool_deployment():  # else the worker that computes looks at its own
            check_memory(runtime)
        check_workers(runtime, model.location, image_folder(recipe.data))
    image_list = read_image_list(recipe.data, recipe.seed, LEAST_IMAGES)
    facts = check_model(At(runtime, "base"), model, prompt)
    table = discretize(At(runtime), recipe.data, recipe.seed, fingerprint(image_list))
    images = ImageSet.of(recipe.data, table, runtime)
    base = GenerationInputs(model=model, prompt=prompt, images=images, max_new_tokens=recipe.model.max_new_tokens)
    run = Run(recipe, store, base, RunFolder(store, recipe.name, recipe.run_fields(), table))
    if read_run(store, recipe.name) is None:  # else an experiment leaves the folder to the run that it stands beside
        run.begin()
    run.keep("model_facts", facts)
    run.keep("images", table)
    return run


def evaluate_and_judge(
    run: Run,
    fitted_judge: ArtifactRef,
    iteration: int,
    kind: Kind,
    inputs: GenerationInputs,
    training: ArtifactRef | None = None,
) -> EvaluatedModel:
    """Everything that one row of the paper's Table 1 needs."""
    recipe, seed = run.recipe, run.recipe.seed
    is_branch = iteration > 1 and kind != "merged"
    splits: tuple[Split, ...] = ("val",) if is_branch and recipe.evaluation.branches == "val" else ("val", "test")
    at, folder = run.at.labelled(f"ite-{iteration} {kind}" if iteration else kind), f"iteration-{iteration:02d}/{kind}"
    predictions = evaluate(at, recipe.evaluation, inputs, splits, seed)
    verdicts = judge(at, recipe.judge.rows, recipe.evaluation.bootstrap, fitted_judge, predictions, seed)
    run.keep(f"{folder}/predictions", predictions)
    run.keep(f"{folder}/verdicts", verdicts)
    openai_verdicts = faithfulness = None
    if recipe.judge.openai.model and "test" in splits:
        openai_verdicts = ask_judge_model(run, at, predictions)
        run.keep(f"{folder}/openai_verdicts", openai_verdicts)
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
        faithfulness=faithfulness,
        training=training,
    )


def ask_judge_model(run: Run, at: At, predictions: ArtifactRef) -> ArtifactRef:
    """Have the recipe's judge model rate the explanations of the test images."""
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
