"""The grid search of appendix A.1: learning rate, beta and LoRA rank, chosen on validation and never on test."""

from itertools import product

from prefect import flow

from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe, Training
from pipeline_lib.methods.self_improve.report.names import cell_name
from pipeline_lib.methods.self_improve.training import dpo_job
from pipeline_lib.store import ArtifactRef
from tasks.self_improve.compare import ComparedModel
from tasks.self_improve.compute_reference import compute_reference
from tasks.self_improve.evaluate import evaluate
from tasks.self_improve.generate import generate
from tasks.self_improve.measure import finish, keep_row
from tasks.self_improve.run import prepare
from tasks.self_improve.train_score import train_score


@flow(name="grid_search", flow_run_name="{recipe.name}")
def grid_search(recipe: SelfImproveRecipe) -> ArtifactRef:
    """Train the score adapter of iteration 1 in every cell of the grid and compare them; returns the comparison.

    The base writes the pairs once, and is their reference once. A finished cell is a cache hit, so a grid can be
    interrupted and widened.
    """
    run = prepare(recipe)
    at, seed, base = run.at.labelled("ite-1"), recipe.seed, run.base
    score_pairs = generate(at, recipe.generation, base, seed, 1)
    reference = compute_reference(at, recipe.training.max_length, base.inputs, score_pairs, None)
    run.keep("grid_search/reference", reference)
    cells = []
    for training in grid(recipe):
        name = cell_name(training)
        at = run.at.labelled(name)
        adapter = train_score(at, dpo_job(training, base, seed, 1), score_pairs, reference)
        predictions = evaluate(at, recipe.evaluation, base.with_adapter(adapter), ("val",), seed)
        keep_row(run, "grid_search", name, predictions)
        cells.append(ComparedModel(name=name, predictions=predictions, training=training))
    return finish(run, "grid_search", cells)


def grid(recipe: SelfImproveRecipe) -> list[Training]:
    """Every combination of the grid's values; other fields stay as in the recipe."""
    search = recipe.grid_search
    return [
        recipe.training.model_copy(update={"learning_rate": rate, "beta": beta, "lora_rank": rank})
        for rate, beta, rank in product(search.learning_rate, search.beta, search.lora_rank)
    ]
