"""The long stages of a run up to its first training, which are those that a cluster shares in."""

from prefect import flow

from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from tasks.self_improve.fit_judge import fit_judge
from tasks.self_improve.generate import generate
from tasks.self_improve.judge import judge
from tasks.self_improve.run import evaluate_and_judge, prepare
from tasks.stage import At


@flow
def generate_only(recipe: SelfImproveRecipe) -> None:
    """Score pairs of the base."""
    run = prepare(recipe)
    generate(run.at.labelled("ite-1"), recipe.generation, run.base, recipe.seed, 1)


@flow
def first_rows(recipe: SelfImproveRecipe) -> None:
    """Score pairs of the base, its predictions, verdicts on them, and the probe of its explanations."""
    run, seed = prepare(recipe), recipe.seed
    pairs = generate(run.at.labelled("ite-1"), recipe.generation, run.base, seed, 1)
    fitted_judge = fit_judge(run.at, recipe.judge.round_trip, pairs, seed)
    measured = evaluate_and_judge(run, fitted_judge, 0, "zero-shot", run.base)
    few = recipe.runtime.model_copy(update={"shard_rows": 1})  # the judge's are large: otherwise there would be one
    judge(At(few, "in shards"), 30, recipe.evaluation.bootstrap, fitted_judge, measured.predictions, seed)
