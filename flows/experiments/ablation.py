"""The paper's Table 3: what becomes of the same base and images without preferences, and without iterating."""

from typing import Literal

from prefect import flow

from flows.self_improve import improve
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.self_improve.compute_reference import compute_reference
from tasks.self_improve.fit_judge import fit_judge
from tasks.self_improve.generate import generate
from tasks.self_improve.measure import as_compared, finish, measure
from tasks.self_improve.run import Setting, evaluate_and_judge, prepare
from tasks.self_improve.swap import swap
from tasks.self_improve.ties_merge import ties_merge
from tasks.self_improve.train_consistency import train_consistency
from tasks.self_improve.train_score import train_score
from tasks.self_improve.train_sft import train_sft


@flow(name="ablation", flow_run_name="{recipe.name}")
def ablation(recipe: SelfImproveRecipe) -> ArtifactRef:
    """Train, evaluate and judge every row of Table 3 that the recipe names (section 5.2); returns the comparison.

    All rows take the photographs of the same iterations, as many steps, and the learning rate decaying alike. The last
    row is the run itself: its stages are those of `self_improve`, and cache hits when that has run (decision 6).
    """
    setting = prepare(recipe)
    fitted_judge = fit_judge(recipe.runtime, recipe.judge.round_trip, base_pairs(setting, 1), recipe.seed)
    models = [as_compared("zero-shot", evaluate_and_judge(setting, fitted_judge, 0, "zero-shot", setting.base))]
    for row in recipe.ablation.rows:
        if row == "iterative_dpo":
            models.append(as_compared(row, improve(setting, recipe.iterations).models[-1]))
        else:
            model = (
                static_dpo(setting) if row == "dpo" else sft(setting, "score" if row == "sft_score" else "score_text")
            )
            models.append(measure(setting, fitted_judge, "ablation", row, model, ("val", "test")))
    return finish(setting, "ablation", models)


def base_pairs(setting: Setting, iteration: int) -> ArtifactRef:
    """Score pairs that the base writes for the photographs of an iteration."""
    recipe, prompt, base, image_set = setting.recipe, setting.prompt, setting.base, setting.image_set
    at, seed = recipe.runtime, recipe.seed
    return generate(at, recipe.generation, prompt, base, image_set, seed, iteration, label=f"base ite-{iteration}")


def static_dpo(setting: Setting) -> ModelRef:
    """DPO on what the base wrote: two adapters, each trained through all iterations, merged once at the end."""
    recipe, prompt, base, image_set = setting.recipe, setting.prompt, setting.base, setting.image_set
    at, seed, training, swapped = recipe.runtime, recipe.seed, recipe.training, None
    score_model = consistency_model = base

    for iteration in range(1, recipe.iterations + 1):
        label, folder = f"dpo ite-{iteration}", f"ablation/dpo/iteration-{iteration:02d}"
        pairs = base_pairs(setting, iteration)
        if iteration > 1:  # consistency is learnt from the second iteration on
            swapped = swap(at, recipe.swap, pairs, seed, iteration, label=label)
        reference = compute_reference(
            at, recipe.training.max_length, prompt, base, image_set, pairs, swapped, label=label
        )
        setting.keep(f"{folder}/reference", reference)
        score = train_score(
            at, training, prompt, score_model, image_set, pairs, reference, seed, iteration, label=label
        )
        setting.keep(f"{folder}/score", score)
        score_model = base.with_adapter(score)
        if swapped is None:
            continue
        consistency = train_consistency(
            at, training, recipe.consistency, prompt, consistency_model, image_set, swapped, reference, seed,
            iteration, label=label,
        )  # fmt: skip
        setting.keep(f"{folder}/consistency", consistency)
        consistency_model = base.with_adapter(consistency)

    if swapped is None:
        return score_model
    merged = ties_merge(at, recipe.merge, base, score, consistency, seed, label="dpo")
    return base.with_adapter(setting.keep("ablation/dpo/merged", merged))


def sft(setting: Setting, target: Literal["score", "score_text"]) -> ModelRef:
    """Supervised training on the base's chosen answers, through all iterations."""
    recipe, prompt, base, image_set = setting.recipe, setting.prompt, setting.base, setting.image_set
    at, seed = recipe.runtime, recipe.seed
    rate = recipe.ablation.sft_learning_rate or recipe.training.learning_rate
    training = recipe.training.model_copy(update={"learning_rate": rate})

    model = base
    for iteration in range(1, recipe.iterations + 1):
        pairs, row = base_pairs(setting, iteration), f"sft_{target}"
        adapter = train_sft(
            at, training, prompt, model, image_set, pairs, target, seed, iteration, label=f"{row} ite-{iteration}"
        )
        setting.keep(f"ablation/{row}/iteration-{iteration:02d}", adapter)
        model = model.with_adapter(adapter)
    return model
