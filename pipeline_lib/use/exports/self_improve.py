"""The models of self_improve as exports."""

from typing import Any

from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import open_run
from pipeline_lib.use.export import export_of_trained
from pipeline_lib.use.export_folder import Export
from pipeline_lib.use.trained import trained_model
from pipeline_lib.vlm.model_ref import resolve_model


def export_of(store: ArtifactStore, recipe: SelfImproveRecipe, iteration: int | None, kind: Any) -> Export:
    """A model of the recipe's run; see `trained_model`."""
    prompt = load_prompt(recipe.prompt)
    base = resolve_model(recipe.model, store)
    run = open_run(store, recipe)
    found = trained_model(run, base, prompt, iteration=iteration, kind=kind)
    return export_of_trained(
        store,
        found,
        prompt,
        recipe.model.max_new_tokens,
        score_column=recipe.data.score_column,
        seed=recipe.seed,
    )
