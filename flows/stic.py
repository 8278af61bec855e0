"""STIC (Algorithms 1 and 2): prefer the better of two own descriptions, then answer behind a description."""

from typing import NamedTuple

from prefect import flow

from pipeline_lib.methods.stic.recipe import SticRecipe
from pipeline_lib.methods.stic.training import infused_job, preferences_job
from pipeline_lib.store import ArtifactRef
from tasks.stic.compute_preference_logps import compute_preference_logps
from tasks.stic.describe_both_ways import describe_both_ways
from tasks.stic.exchange_preferences import exchange_preferences
from tasks.stic.infuse import infuse
from tasks.stic.report import EvaluatedModel, Settings, report
from tasks.stic.run import Run, evaluate, finished_control, prepare
from tasks.stic.train_infused import train_infused
from tasks.stic.train_preferences import train_preferences


class Trained(NamedTuple):
    """What a run has made: its data, and its models in the order of their stages."""

    preferences: ArtifactRef
    infused: ArtifactRef
    models: list[EvaluatedModel]


@flow(name="stic", flow_run_name="{recipe.name}")
def stic(recipe: SticRecipe) -> ArtifactRef:
    """Self-train a vision-language model on images alone and some instructions; returns the report's artifact.

    Stages that the store already holds are cached, so running a recipe again after a crash continues where it stopped,
    and running a finished one computes nothing.
    """
    run = prepare(recipe)
    run.begin()
    trained = learn(run)
    return conclude(run, trained, finished_control(run, trained.models[0]))


def learn(run: Run, *, exchanged: bool = False) -> Trained:
    """Both stages, and the evaluation of the base and of the model behind each; a control exchanges the preferences."""
    recipe, keep, seed = run.recipe, run.keep, run.recipe.seed
    at = run.at.labelled("stage-1")
    preferences = describe_both_ways(
        at, recipe.preferences, run.prompts, run.model, run.images, recipe.model.max_new_tokens, seed
    )
    reference = None
    if recipe.training.loss == "dpo":
        length = recipe.training.max_length
        reference = compute_preference_logps(at, length, run.model, run.images, preferences)
        keep("iteration-01/reference", reference)
    if exchanged:
        preferences = exchange_preferences(at, preferences)
    keep("iteration-01/preferences_data", preferences)
    models = [evaluate(run, "base", run.model)]

    job = preferences_job(recipe.training, run.model, run.images, run.prompts, seed)
    stage_1 = keep("iteration-01/preferences/adapter", train_preferences(at, job, preferences, reference))
    describer = run.model.with_adapter(stage_1)
    models.append(evaluate(run, "preferences", describer, stage_1))

    at = run.at.labelled("stage-2")
    described = keep("iteration-02/descriptions", run.descriptions(at, describer, run.instructions))
    infused = infuse(at, run.prompts.infused, run.model, run.instructions.table, described, recipe.infusion.describe)
    keep("iteration-02/infused_data", infused)
    job = infused_job(recipe.infusion, run.model, run.instructions, run.prompts, stage_1, seed)
    stage_2 = keep("iteration-02/infused/adapter", train_infused(at, job, infused))
    keep("model", stage_2)
    models.append(evaluate(run, "infused", run.model.with_adapter(stage_2), stage_2))
    return Trained(preferences, infused, models)


def conclude(run: Run, trained: Trained, control: EvaluatedModel | None) -> ArtifactRef:
    """The report of a run, which shows the final model of its control where there is one."""
    settings = Settings(recipe=run.recipe, prompts=run.prompts)
    finished = report(
        run.at,
        settings,
        run.model,
        run.images,
        run.questions,
        trained.preferences,
        trained.infused,
        trained.models,
        control,
    )
    run.show("report", finished, "report")
    run.end()
    return finished
