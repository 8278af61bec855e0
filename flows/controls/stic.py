"""The control of stic: the same two stages, with the preferred and the dis-preferred answers exchanged."""

from prefect import flow

from flows.stic import conclude, learn
from pipeline_lib.methods.stic.recipe import SticRecipe
from pipeline_lib.store import ArtifactRef
from tasks.stic.run import control_of, prepare


@flow(name="stic_control", flow_run_name="{recipe.name}-control")
def stic_control(recipe: SticRecipe) -> ArtifactRef:
    """Run the recipe, and again with exchanged preferences; returns the report, which compares both final models.

    Data, base and questions are the run's own, so both describe the same images, and the base is evaluated once.
    """
    run = prepare(recipe)
    run.begin()
    trained = learn(run)
    control = control_of(run)
    of_control = learn(control, exchanged=True)
    finished = conclude(run, trained, of_control.models[-1])
    control.show("report", finished, "report")
    control.end()
    return finished
