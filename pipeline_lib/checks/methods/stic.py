"""The checks of stic: images without scores, instructions, questions, and the prompts."""

from collections.abc import Iterator

from pipeline_lib.checks.doctor import Check, Facts, Finding, look_at_images, look_at_model, look_at_table
from pipeline_lib.checks.survey import Survey, seen_in_training, survey_data, survey_images
from pipeline_lib.config.base import Split
from pipeline_lib.data.table import NO_LIMIT, check_table
from pipeline_lib.methods.stic.questions import read_questions
from pipeline_lib.methods.stic.recipe import QuestionData, SticRecipe

_LEAST: dict[Split, int] = {"train": 1}


def _tables(recipe: SticRecipe) -> dict[str, QuestionData]:
    return {"instructions": recipe.instructions, "questions": recipe.questions}


def _table(recipe: SticRecipe, facts: Facts) -> Iterator[Finding]:
    facts["table"] = yield from look_at_table(
        "table", recipe.data, lambda: check_table(recipe.data, recipe.seed, _LEAST)
    )


def _images(recipe: SticRecipe, facts: Facts) -> Iterator[Finding]:
    facts["images"] = yield from look_at_images("images", recipe.data, facts.get("table"), _LEAST)


def _questions(recipe: SticRecipe, facts: Facts) -> Iterator[Finding]:
    for name, data in _tables(recipe).items():
        found = read_questions(data, recipe.seed)
        yield Finding("rows", "ok", f"{name}: {len(found.rows)} rows about {len(found.images.rows)} images")


def _prompt(recipe: SticRecipe, facts: Facts) -> Iterator[Finding]:
    from pipeline_lib.methods.stic.prompt import load_prompts

    facts["prompts"] = load_prompts(recipe.prompts)
    yield Finding("prompt", "ok", f"{facts['prompts'].name}: the prompts of both stages")


def _model(recipe: SticRecipe, facts: Facts) -> Iterator[Finding]:
    if "prompts" not in facts:
        yield Finding("model", "skip", "not checked, because there are no prompts")
        return
    prompts = facts["prompts"]
    asked = (prompts.curated, *prompts.plain, *prompts.bad, prompts.describe)
    yield from look_at_model(recipe, facts, dict.fromkeys(asked, 1))


CHECKS: dict[str, Check] = {
    "table": _table,
    "images": _images,
    "rows": _questions,
    "prompt": _prompt,
    "model": _model,
}


def surveys(recipe: SticRecipe) -> list[tuple[str, Survey]]:
    """The images to learn from, and those of instructions and questions."""
    trained = survey_data(recipe.data, recipe.seed, _LEAST)
    found = [("images to learn from, without scores", trained)]
    for name, data in _tables(recipe).items():
        listed, split = read_questions(data, recipe.seed), "train" if name == "instructions" else "test"
        images = listed.images._replace(rows=listed.images.rows.assign(split=split, group=listed.images.rows["image"]))
        of_data = data.image_data.model_copy(update={"max_unreadable_fraction": data.max_unreadable_fraction})
        survey = survey_images(images, of_data, NO_LIMIT, [], [f"{len(listed.rows)} rows with a question"])
        if name == "questions":
            survey = survey._replace(more=[seen_in_training(trained, survey)])
        found.append((name, survey))
    return found
