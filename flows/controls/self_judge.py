"""The control of self_judge: the same loop on reasons whose verdict is the opposite of how the pair was made."""

from prefect import flow

from flows.self_judge import conclude, learn
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe
from pipeline_lib.store import ArtifactRef
from tasks.self_judge.run import control_of, prepare


@flow(name="self_judge_control", flow_run_name="{recipe.name}-control")
def self_judge_control(recipe: SelfJudgeRecipe) -> ArtifactRef:
    """Run the recipe, and again with flipped verdicts in the filter; returns the report of the control.

    The stages of the run itself are cache hits when it has run. At the end the run's report shows the control.
    """
    run = prepare(recipe)
    run.begin()
    judges = learn(run)
    control = control_of(run)
    opposite = learn(control, flipped=True)
    finished = conclude(control, opposite)
    conclude(run, judges, opposite)
    return finished
