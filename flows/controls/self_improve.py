"""The control of self_improve: the same loop on permuted training scores, from which nothing can be learnt."""

from prefect import flow

from flows.self_improve import conclude, improve
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef
from tasks.self_improve.compare_control import compare_control
from tasks.self_improve.report import Settings
from tasks.self_improve.run import control_of, prepare


@flow(name="self_improve_control", flow_run_name="{recipe.name}-control")
def self_improve_control(recipe: SelfImproveRecipe) -> ArtifactRef:
    """Run the recipe, and again with the training scores shuffled among the training images; returns the comparison.

    The stages of the run itself are cache hits when it has run. Base, validation and test images, and the round-trip
    judge are the run's own, so the zero-shot model is evaluated once for both. At the end the run's report shows the
    control.
    """
    run = prepare(recipe)
    run.begin()
    improved = improve(run, recipe.iterations)
    conclude(run, improved)

    control = control_of(run)
    models = improve(control, recipe.iterations, improved.fitted_judge).models
    settings = Settings(recipe=recipe, prompt=run.base.prompt)
    compared = compare_control(control.at, settings, improved.models[0], improved.models[-1], models[-1])
    control.show("report", compared, "report")
    control.end()
    conclude(run, improved)
    return compared
