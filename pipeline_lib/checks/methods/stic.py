"""The checks of stic: images without scores, instructions, questions, and the prompts."""

from collections.abc import Iterator

from pipeline_lib.checks.doctor import Check, Facts, Finding, look_at_images, look_at_model, look_at_table
from pipeline_lib.checks.estimate.counts import images_of
from pipeline_lib.checks.estimate.stages import SHARE_OF_LIMIT, Stage, Stages, Tokens
from pipeline_lib.checks.survey import Survey, seen_in_training, survey_data, survey_images
from pipeline_lib.config.base import Split
from pipeline_lib.data.table import NO_LIMIT, check_table
from pipeline_lib.errors import DataError
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
        facts[name] = len(found.rows)
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


_TAUGHT_TOKENS = 100
"""Of an answer in instruction data, assumed."""


def stages(recipe: SticRecipe, facts: Facts, tokens: Tokens) -> Stages:
    """Both descriptions, both trainings, descriptions of the instructions' images, and evaluation of three models."""
    from pipeline_lib.methods.stic.prompt import load_prompts

    images, prompts = images_of(recipe.data, facts.get("table")), load_prompts(recipe.prompts)
    preferred = recipe.preferences.images or (images or {}).get("train")
    taught, asked = facts.get("instructions") or recipe.instructions.rows, facts.get("questions")
    without = [name for name, count in (("instructions", taught), ("questions", asked)) if not count]
    if preferred is None:
        raise DataError("no estimate: the table of images is not on this machine")
    limit, batch, curated = recipe.model.max_new_tokens, recipe.runtime.generation_batch_size, tokens(prompts.curated)
    plain, describe = tokens(prompts.plain[0]), tokens(prompts.describe)
    behind = SHARE_OF_LIMIT * limit if recipe.infusion.describe else 0
    question, training, infusion = tokens("x" * 200), recipe.training, recipe.infusion
    is_dpo = training.loss == "dpo"
    found = [Stage("describe both ways", "generate", 2 * preferred, curated, limit, batch)]
    if is_dpo:
        found.append(Stage("reference", "read", preferred, plain, limit, max(1, batch // 2), answers=2))
    found.append(
        Stage(
            "train preferences",
            "dpo" if is_dpo else "sft",
            preferred * training.epochs,
            plain,
            limit,
            training.micro_batch_size,
            answers=2 if is_dpo else 1,
            rank=training.lora_rank,
        )
    )
    if taught:
        found.append(Stage("describe", "generate", taught, describe, limit, batch))
        found.append(
            Stage(
                "train infused",
                "sft",
                taught * infusion.epochs,
                question + behind,
                _TAUGHT_TOKENS,
                infusion.micro_batch_size,
                length=_TAUGHT_TOKENS,
                rank=infusion.lora_rank,
            )
        )
    if asked:
        short = recipe.questions.max_new_tokens
        found.append(Stage("evaluate: describe", "generate", 3 * asked, describe, limit, batch))
        found.append(Stage("evaluate: answer", "generate", 6 * asked, question + behind / 2, short, batch))
    return Stages(found, without)


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
