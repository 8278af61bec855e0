"""The control of the toy: it learns the longest answers."""

from flows.toy import learn
from pipeline_lib.methods.toy.recipe import ToyRecipe
from prefect import flow
from tasks.toy.run import control_of, prepare

from pipeline_lib.store import ArtifactRef


@flow(name="toy_control", flow_run_name="{recipe.name}-control")
def toy_control(recipe: ToyRecipe) -> ArtifactRef:
    """Learn the shortest answers, and beside that the longest; returns the report of the latter."""
    run = prepare(recipe)
    run.begin()
    learn(run, longest=False)
    return learn(control_of(run), longest=True)
