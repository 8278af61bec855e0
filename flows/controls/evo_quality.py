"""The controls of evo_quality: the same rounds on shuffled votes, and one round on flipped ones."""

from dataclasses import replace

from prefect import flow

from flows.evo_quality import conclude, evolve
from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from pipeline_lib.store import ArtifactRef
from tasks.evo_quality.compare_controls import Control, compare_controls
from tasks.evo_quality.run import control_of, prepare, settings_of


@flow(name="evo_quality_control", flow_run_name="{recipe.name}-control")
def evo_quality_control(recipe: EvoQualityRecipe) -> ArtifactRef:
    """Run the recipe, and again on votes from which nothing can be learnt; returns the comparison.

    Shuffled votes must gain nothing, flipped ones must lose. The stages of the run itself are cache hits when it has
    run. At the end the run's report shows the controls.
    """
    if not recipe.evaluation.labelled:
        raise RecipeError("a control is measured on labelled images; name a data set in evaluation.labelled")
    run = prepare(recipe)
    run.begin()
    evolved = evolve(run)
    conclude(run, evolved)

    control = control_of(run)
    flipped = evolve(replace(control, label="control flipped"), "flipped", rounds=1).models
    shuffled = evolve(control, "shuffled").models  # last: the pointers of the control's folder are of these models
    controls = [
        Control(labels=labels, models=models[1:]) for labels, models in (("shuffled", shuffled), ("flipped", flipped))
    ]
    compared = compare_controls(control.at, settings_of(run), evolved.models, controls)
    control.show("report", compared, "report")
    control.end()
    conclude(run, evolved)
    return compared
