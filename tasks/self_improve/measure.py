"""Shared by the experiments beside a run: measuring a model, and making the table and page."""

from typing import Literal

from pipeline_lib.config.base import Split
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.report.names import file_name
from pipeline_lib.store import ArtifactRef
from tasks.self_improve.compare import ComparedModel, compare
from tasks.self_improve.evaluate import evaluate
from tasks.self_improve.judge import judge
from tasks.self_improve.report import EvaluatedModel, Settings
from tasks.self_improve.run import Run, ask_judge_model

Experiment = Literal["ablation", "grid_search", "merge_ablation"]


def measure(
    run: Run,
    fitted_judge: ArtifactRef,
    experiment: Experiment,
    name: str,
    inputs: GenerationInputs,
    splits: tuple[Split, ...],
) -> ComparedModel:
    """Evaluate a model on some splits, have its explanations judged, and keep it as a row of an experiment.

    The recipe's judge model rates if test is among the splits; on validation alone the local judge rates, which costs
    nothing.
    """
    recipe, seed, at = run.recipe, run.recipe.seed, run.at.labelled(name)
    predictions = evaluate(at, recipe.evaluation, inputs, splits, seed)
    if recipe.judge.openai.model and "test" in splits:
        verdicts = ask_judge_model(run, at, predictions)
    else:
        verdicts = judge(at, recipe.judge.rows, recipe.evaluation.bootstrap, fitted_judge, predictions, seed)
    keep_row(run, experiment, name, verdicts)
    return ComparedModel(name=name, predictions=predictions, verdicts=verdicts)


def keep_row(run: Run, experiment: Experiment, name: str, ref: ArtifactRef) -> None:
    """Write the pointer of a finished row's last artifact, so that `gc` keeps the row while others are computed."""
    run.keep(f"{experiment}/rows/{file_name(name)}", ref)


def as_compared(name: str, model: EvaluatedModel) -> ComparedModel:
    """A model of the run itself as a row of an experiment."""
    return ComparedModel(name=name, predictions=model.predictions, verdicts=model.openai_verdicts or model.verdicts)


def finish(run: Run, experiment: Experiment, models: list[ComparedModel]) -> ArtifactRef:
    """Make the experiment's table and page, and copy them to `runs/<name>/<experiment>/`."""
    settings = Settings(recipe=run.recipe, prompt=run.base.prompt)
    finished = compare(run.at.labelled(experiment.replace("_", " ")), experiment, settings, models)
    run.show(f"{experiment}/comparison", finished, experiment)
    return finished
