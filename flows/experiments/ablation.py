"""The paper's Table 3: the same base and images trained without preferences, and without iterating."""

from typing import Literal

from prefect import flow

from flows.self_improve import improve
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.training import dpo_job, sft_job
from pipeline_lib.store import ArtifactRef
from tasks.self_improve.compute_reference import compute_reference
from tasks.self_improve.fit_judge import fit_judge
from tasks.self_improve.generate import generate
from tasks.self_improve.measure import as_compared, finish, measure
from tasks.self_improve.run import Run, evaluate_and_judge, prepare
from tasks.self_improve.swap import swap
from tasks.self_improve.ties_merge import ties_merge
from tasks.self_improve.train_consistency import train_consistency
from tasks.self_improve.train_score import train_score
from tasks.self_improve.train_sft import train_sft


@flow(name="ablation", flow_run_name="{recipe.name}")
def ablation(recipe: SelfImproveRecipe) -> ArtifactRef:
    """Train, evaluate and judge every row of Table 3 that the recipe names (section 5.2); returns the comparison.

    All rows use the images of the same iterations, the same number of steps and the same decay of the learning rate.
    The last row is the run itself: its stages are those of `self_improve`, and cache hits when that has run (decision
    6).
    """
    run = prepare(recipe)
    fitted_judge = fit_judge(run.at, recipe.judge.round_trip, base_pairs(run, 1), recipe.seed)
    models = [as_compared("zero-shot", evaluate_and_judge(run, fitted_judge, 0, "zero-shot", run.base))]
    for row in recipe.ablation.rows:
        if row == "iterative_dpo":
            models.append(as_compared(row, improve(run, recipe.iterations).models[-1]))
        else:
            model = static_dpo(run) if row == "dpo" else sft(run, "score" if row == "sft_score" else "score_text")
            models.append(measure(run, fitted_judge, "ablation", row, model, ("val", "test")))
    return finish(run, "ablation", models)


def base_pairs(run: Run, iteration: int) -> ArtifactRef:
    """Score pairs that the base writes for the images of an iteration."""
    at = run.at.labelled(f"base ite-{iteration}")
    return generate(at, run.recipe.generation, run.base, run.recipe.seed, iteration)


def static_dpo(run: Run) -> GenerationInputs:
    """DPO on the base's pairs: two adapters, each trained through all iterations, merged once at the end."""
    recipe, seed, base = run.recipe, run.recipe.seed, run.base
    training, factor, swapped = recipe.training, recipe.consistency.learning_rate_factor, None
    score_model = consistency_model = base

    for iteration in range(1, recipe.iterations + 1):
        at, folder = run.at.labelled(f"dpo ite-{iteration}"), f"ablation/dpo/iteration-{iteration:02d}"
        pairs = base_pairs(run, iteration)
        if iteration > 1:  # consistency is learnt from the second iteration on
            swapped = swap(at, recipe.swap, pairs, seed, iteration)
        reference = compute_reference(at, training.max_length, base.inputs, pairs, swapped)
        run.keep(f"{folder}/reference", reference)
        score = train_score(at, dpo_job(training, score_model, seed, iteration), pairs, reference)
        run.keep(f"{folder}/score", score)
        score_model = base.with_adapter(score)
        if swapped is None:
            continue
        job = dpo_job(training, consistency_model, seed, iteration, factor)
        consistency = train_consistency(at, job, swapped, reference)
        run.keep(f"{folder}/consistency", consistency)
        consistency_model = base.with_adapter(consistency)

    if swapped is None:
        return score_model
    merged = ties_merge(run.at.labelled("dpo"), recipe.merge, base.model, score, consistency, seed)
    return base.with_adapter(run.keep("ablation/dpo/merged", merged))


def sft(run: Run, target: Literal["score", "score_text"]) -> GenerationInputs:
    """Supervised training on the base's chosen answers, through all iterations."""
    recipe, row = run.recipe, f"sft_{target}"
    rate = recipe.ablation.sft_learning_rate or recipe.training.learning_rate
    training = recipe.training.model_copy(update={"learning_rate": rate})

    inputs = run.base
    for iteration in range(1, recipe.iterations + 1):
        job, pairs = sft_job(training, inputs, recipe.seed, iteration), base_pairs(run, iteration)
        adapter = train_sft(run.at.labelled(f"{row} ite-{iteration}"), job, pairs, target)
        run.keep(f"ablation/{row}/iteration-{iteration:02d}", adapter)
        inputs = inputs.with_adapter(adapter)
    return inputs
