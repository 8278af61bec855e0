"""The checks of self_judge: images with questions, pairs to measure with, and the prompts."""

from collections.abc import Iterator

from pipeline_lib.checks.doctor import Check, Facts, Finding, look_at_images, look_at_model
from pipeline_lib.checks.survey import Survey, seen_in_training, survey_images
from pipeline_lib.data.table import NO_LIMIT
from pipeline_lib.methods.self_judge import answer_pairs, prompts_table
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe


def _table(recipe: SelfJudgeRecipe, facts: Facts) -> Iterator[Finding]:
    found = prompts_table.read_prompts(recipe.data, recipe.seed)
    facts["table"] = found.images
    splits = found.images.rows["split"].value_counts()
    counts = ", ".join(f"{count} {split}" for split, count in splits.items())
    yield Finding("table", "ok", f"{len(found.rows)} rows about {len(found.images.rows)} images ({counts})")


def _images(recipe: SelfJudgeRecipe, facts: Facts) -> Iterator[Finding]:
    facts["images"] = yield from look_at_images("images", recipe.data, facts.get("table"), prompts_table.LEAST)


def _pairs(recipe: SelfJudgeRecipe, facts: Facts) -> Iterator[Finding]:
    if not recipe.evaluation.pairs:
        yield Finding("pairs", "note", "no pairs with a known answer, so the judge is only measured on held-out ones")
    for data in recipe.evaluation.pairs:
        found = answer_pairs.read_pairs(data, recipe.seed)
        yield Finding("pairs", "ok", f"{data.name}: {len(found.rows)} pairs about {len(found.images.rows)} images")


def _prompt(recipe: SelfJudgeRecipe, facts: Facts) -> Iterator[Finding]:
    from pipeline_lib.judges.vlm_judge import load_judge_prompt
    from pipeline_lib.methods.self_judge.pairs import load_inject_prompt

    judge, inject = load_judge_prompt(recipe.reasons.prompt), load_inject_prompt(recipe.pairs.inject_prompt)
    facts["prompts"] = (judge.ask("question", "answer", "answer"), inject.ask("question", "answer"))
    yield Finding("prompt", "ok", f"{judge.name} to judge, {inject.name} to put errors in")


def _model(recipe: SelfJudgeRecipe, facts: Facts) -> Iterator[Finding]:
    if "prompts" not in facts:
        yield Finding("model", "skip", "not checked, because there are no prompts")
        return
    yield from look_at_model(recipe, facts, dict.fromkeys(facts["prompts"], 1))


CHECKS: dict[str, Check] = {
    "table": _table,
    "images": _images,
    "pairs": _pairs,
    "prompt": _prompt,
    "model": _model,
}


def surveys(recipe: SelfJudgeRecipe) -> list[tuple[str, Survey]]:
    """The images with questions, and those of the pairs to measure with."""
    prompts = prompts_table.read_prompts(recipe.data, recipe.seed)
    notes = [f"{len(prompts.rows)} rows, a question each"]
    trained = survey_images(prompts.images, recipe.data, prompts_table.LEAST, [], notes)
    found = [("images with questions", trained)]
    for data in recipe.evaluation.pairs:
        pairs = answer_pairs.read_pairs(data, recipe.seed)
        images = pairs.images._replace(rows=pairs.images.rows.assign(split="test", group=pairs.images.rows["image"]))
        survey = survey_images(images, answer_pairs.image_data(data), NO_LIMIT, [], [f"{len(pairs.rows)} pairs"])
        found.append((data.name, survey._replace(more=[seen_in_training(trained, survey)])))
    return found
