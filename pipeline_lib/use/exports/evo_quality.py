"""The models of evo_quality as exports."""

from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.evo_quality.chosen import chosen_round
from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.prompt import load_prompts
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import open_run
from pipeline_lib.use.export_folder import ROOT, Export, check_exportable, model_facts
from pipeline_lib.vlm.model_ref import resolve_model

FORMAT = 1
"""Of `whyscore.json`; another number has other fields."""

_CODE = {
    "whyscore_model.py": ROOT / "pipeline_lib" / "use" / "exported_rating.py",
    "whyscore_answers.py": ROOT / "pipeline_lib" / "methods" / "evo_quality" / "answers.py",
    "whyscore_drawing.py": ROOT / "pipeline_lib" / "vlm" / "generate" / "drawing.py",
}


def export_of(store: ArtifactStore, recipe: EvoQualityRecipe, iteration: int | None, kind: str | None) -> Export:
    """The model of a round of the recipe's run; see `chosen_round`."""
    if recipe.evaluation.exact:
        raise RecipeError("--export: expectations are not exported; set evaluation.exact: null for sampled ratings")
    if kind:
        raise RecipeError("--kind is for recipes of self_improve; give --iteration for a round")
    chosen = chosen_round(open_run(store, recipe), iteration)
    base = resolve_model(recipe.model, store)
    model = base.with_adapter(chosen.adapter) if chosen.adapter else base
    check_exportable(model, chosen.name, chosen.why)
    return export_of_rater(Rater.of(recipe, model, load_prompts(recipe.prompts)), recipe.seed, chosen.name, chosen.why)


def export_of_rater(rater: Rater, seed: int, name: str, why: str) -> Export:
    """A model that rates with what its folder says about it."""
    facts = model_facts(rater.model, name, rater.prompt, rater.max_new_tokens)
    facts |= {
        "format": FORMAT,
        "method": "evo_quality",
        "answers": rater.answers,
        "temperature": rater.temperature,
        "seed": seed,
    }
    return Export(
        name=name,
        why=why,
        model=rater.model,
        facts=facts,
        code=_CODE,
        title="Rates the quality of an image on a scale of 1..5.",
        example=(
            "print(answer.rating)  # the mean of the sampled ratings",
            "print(answer.stated)  # the greedy rating",
        ),
        reading=f"""- **Rating**: the mean of {rater.answers} sampled answers of at most {
            rater.max_new_tokens
        } tokens, at temperature {rater.temperature:g}; each is the number in the
  last `\\boxed{{}}` of the text. An answer without a number of 1..5 there is left out. The draws follow from the seed
  and the content of the image file (`whyscore_drawing.py`), so an image gets the same rating each time.""",
    )
