"""The loop of the paper's Fig. 2: generate, swap, train both, merge, evaluate, and again with the new model."""

from functools import partial
from typing import NamedTuple

from prefect import flow

from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.training import dpo_job
from pipeline_lib.store import ArtifactRef
from tasks.self_improve.compare_control import finished_control
from tasks.self_improve.compute_reference import compute_reference
from tasks.self_improve.fit_judge import fit_judge
from tasks.self_improve.generate import generate
from tasks.self_improve.keep_anchors import keep_anchors
from tasks.self_improve.report import EvaluatedModel, Settings, report
from tasks.self_improve.run import Run, evaluate_and_judge, evaluate_other_data, prepare
from tasks.self_improve.swap import swap
from tasks.self_improve.ties_merge import ties_merge
from tasks.self_improve.train_consistency import train_consistency
from tasks.self_improve.train_score import train_score


class Improved(NamedTuple):
    """The results of the loop: its models in the order of the paper's Table 1, the judge that rated them, the last."""

    models: list[EvaluatedModel]
    fitted_judge: ArtifactRef
    last: GenerationInputs  # the final model


@flow(name="self_improve", flow_run_name="{recipe.name}")
def self_improve(recipe: SelfImproveRecipe) -> ArtifactRef:
    """Self-train a vision-language model on images and scores (section 3, Fig. 2); returns the report's artifact.

    Stages that the store already holds are cached, so running a recipe again after a crash continues where it stopped,
    and running a finished one computes nothing.
    """
    run = prepare(recipe)
    run.begin()
    return conclude(run, improve(run, recipe.iterations))


def conclude(run: Run, improved: Improved) -> ArtifactRef:
    """The end of a run: anchors, other data sets, and the report, which shows the run's control where there is one."""
    recipe, models = run.recipe, improved.models
    if recipe.judge.anchors:
        answered = [(model.iteration, model.kind, model.predictions) for model in models if model.tested]
        run.keep("anchors", keep_anchors(run.at, recipe.judge.anchors, answered, recipe.seed))
    others = [
        evaluate_other_data(run, data, inputs, evaluated)
        for data in recipe.evaluation.also
        for inputs, evaluated in ((run.base, models[0]), (improved.last, models[-1]))
    ]
    settings, control = Settings(recipe=recipe, prompt=run.base.prompt), finished_control(run, models)
    finished = report(
        run.at, settings, run.base.model, run.base.images, improved.fitted_judge, models, others=others, control=control
    )
    run.show("report", finished, "report")
    run.end()
    return finished


def improve(run: Run, iterations: int, fitted_judge: ArtifactRef | None = None) -> Improved:
    """The loop itself, for so many iterations; stages that another flow has computed are cached.

    A run learns its own round-trip judge; a control is given that of its run, so that one judge rates both.
    """
    recipe, keep, seed = run.recipe, run.keep, run.recipe.seed
    models: list[EvaluatedModel] = []

    inputs = run.base
    for iteration in range(1, iterations + 1):
        at, folder = run.at.labelled(f"ite-{iteration}"), f"iteration-{iteration:02d}"
        score_pairs = generate(at, recipe.generation, inputs, seed, iteration)
        keep(f"{folder}/score_pairs", score_pairs)
        consistency_pairs = None
        if iteration > 1:  # the base scores too badly to learn consistency yet (section 3.2)
            consistency_pairs = swap(at, recipe.swap, score_pairs, seed, iteration)
            keep(f"{folder}/consistency_pairs", consistency_pairs)
        reference = compute_reference(at, recipe.training.max_length, run.base.inputs, score_pairs, consistency_pairs)
        keep(f"{folder}/reference", reference)
        if iteration == 1:  # the judge learns from the base's explanations, and is the same for all models
            fitted_judge = fitted_judge or fit_judge(run.at, recipe.judge.round_trip, score_pairs, seed)
            keep("judge", fitted_judge)
            measure = partial(evaluate_and_judge, run, fitted_judge)
            models.append(measure(0, "zero-shot", run.base))

        score = train_score(at, dpo_job(recipe.training, inputs, seed, iteration), score_pairs, reference)
        keep(f"{folder}/score/adapter", score)
        models.append(measure(iteration, "score", inputs.with_adapter(score), score, score_pairs))
        if consistency_pairs is None:
            inputs = inputs.with_adapter(keep("model", score))
            continue

        job = dpo_job(recipe.training, inputs, seed, iteration, recipe.consistency.learning_rate_factor)
        consistency = train_consistency(at, job, consistency_pairs, reference)
        keep(f"{folder}/consistency/adapter", consistency)
        trained = inputs.with_adapter(consistency)
        models.append(measure(iteration, "consistency", trained, consistency, consistency_pairs))

        merged = ties_merge(at, recipe.merge, run.base.model, score, consistency, seed)
        keep(f"{folder}/merged/adapter", merged)
        inputs = inputs.with_adapter(keep("model", merged))
        models.append(measure(iteration, "merged", inputs))
    assert fitted_judge is not None
    return Improved(models, fitted_judge, inputs)
