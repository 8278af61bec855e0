"""What the experiments beside a run share: one more model measured, and the table and page they end in."""

from typing import Literal

from pipeline_lib.config.base import Split
from pipeline_lib.methods.self_improve.report.names import file_name
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.self_improve.compare import ComparedModel, compare
from tasks.self_improve.evaluate import evaluate
from tasks.self_improve.judge import judge
from tasks.self_improve.judge_openai import judge_openai
from tasks.self_improve.report import EvaluatedModel, Settings
from tasks.self_improve.run import Setting

Experiment = Literal["ablation", "grid_search", "merge_ablation"]


def measure(
    setting: Setting,
    fitted_judge: ArtifactRef,
    experiment: Experiment,
    name: str,
    model: ModelRef,
    splits: tuple[Split, ...],
) -> ComparedModel:
    """Evaluate a model on some splits, have its explanations judged, and keep it as a row of an experiment.

    The recipe's judge model speaks where test is among the splits; on validation alone it is the local judge, which
    costs nothing.
    """
    recipe, at, seed = setting.recipe, setting.recipe.runtime, setting.recipe.seed
    predictions = evaluate(at, recipe.evaluation, setting.prompt, model, setting.image_set, splits, seed, label=name)
    if recipe.judge.openai.model and "test" in splits:
        verdicts = judge_openai(
            at, recipe.judge.openai, recipe.judge.rows, load_rubric(recipe.judge.openai.rubric),
            setting.prompt.criterion, recipe.evaluation, predictions, seed, label=name,
        )  # fmt: skip
    else:
        verdicts = judge(at, recipe.judge.rows, recipe.evaluation, fitted_judge, predictions, seed, label=name)
    keep_row(setting, experiment, name, verdicts)
    return ComparedModel(name=name, predictions=predictions, verdicts=verdicts)


def keep_row(setting: Setting, experiment: Experiment, name: str, ref: ArtifactRef) -> None:
    """Name the last artifact of a finished row: what it was made from is kept with it while the others are computed."""
    setting.keep(f"{experiment}/rows/{file_name(name)}", ref)


def as_compared(name: str, model: EvaluatedModel) -> ComparedModel:
    """A model of the run itself as a row of an experiment."""
    return ComparedModel(name=name, predictions=model.predictions, verdicts=model.openai_verdicts or model.verdicts)


def finish(setting: Setting, experiment: Experiment, models: list[ComparedModel]) -> ArtifactRef:
    """Make the experiment's table and page, and copy them to the run's folder `<experiment>`."""
    recipe = setting.recipe
    settings = Settings(recipe=recipe, prompt=setting.prompt)
    finished = compare(recipe.runtime, experiment, settings, models, label=experiment.replace("_", " "))
    setting.keep(f"{experiment}/comparison", finished)
    setting.folder.copy_out(finished, experiment)
    return finished
