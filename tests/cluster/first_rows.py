"""The long stages of a run up to its first training, which are those that a cluster shares in."""

from prefect import flow

from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from tasks.self_improve.fit_judge import fit_judge
from tasks.self_improve.generate import generate
from tasks.self_improve.judge import judge
from tasks.self_improve.run import evaluate_and_judge, prepare


@flow
def generate_only(recipe: SelfImproveRecipe) -> None:
    """Score pairs of the base."""
    setting = prepare(recipe)
    generate(
        recipe.runtime, recipe.generation, setting.prompt, setting.base, setting.image_set, recipe.seed, 1,
        label="ite-1",
    )  # fmt: skip


@flow
def first_rows(recipe: SelfImproveRecipe) -> None:
    """Score pairs of the base, its predictions, verdicts on them, and the probe of its explanations."""
    setting = prepare(recipe)
    at, seed = recipe.runtime, recipe.seed
    pairs = generate(
        at, recipe.generation, setting.prompt, setting.base, setting.image_set, seed, 1, label="ite-1"
    )  # fmt: skip
    fitted_judge = fit_judge(at, recipe.judge.round_trip, pairs, seed)
    measured = evaluate_and_judge(setting, fitted_judge, 0, "zero-shot", setting.base)
    few = at.model_copy(update={"shard_rows": 1})  # the judge's shards are large: otherwise there would be one
    judge(few, 30, recipe.evaluation, fitted_judge, measured.predictions, seed, label="in shards")
