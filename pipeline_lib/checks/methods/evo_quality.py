"""The checks of evo_quality: images without scores, enough pairs, labelled data sets, two prompts, and GRPO."""

from collections.abc import Iterator
from functools import partial
from math import comb
from typing import Any

from pipeline_lib.checks.doctor import Check, Facts, Finding, look_at_images, look_at_model, look_at_table
from pipeline_lib.checks.estimate.counts import images_of, known_images_of
from pipeline_lib.checks.estimate.stages import Stage, Stages, Tokens, passes_for
from pipeline_lib.checks.survey import Survey, seen_in_training, survey_data, survey_images
from pipeline_lib.data.table import NO_LIMIT, CheckedTable, check_table
from pipeline_lib.errors import ModelError, RecipeError
from pipeline_lib.methods.evo_quality.pairs import LEAST_IMAGES
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe, Labelled


def _labelled(recipe: EvoQualityRecipe) -> list[tuple[str, str, Labelled]]:
    """A name, the field and the data of each labelled data set."""
    evaluation = recipe.evaluation
    found = [(data.name, f"evaluation.labelled.{at}", data) for at, data in enumerate(evaluation.labelled)]
    return [*found, *([("stop", "evaluation.stop", evaluation.stop)] if evaluation.stop else [])]


def _table(recipe: EvoQualityRecipe, facts: Facts) -> Iterator[Finding]:
    facts["table"] = found = yield from look_at_table(
        "table", recipe.data, lambda: check_table(recipe.data, recipe.seed, LEAST_IMAGES)
    )
    if found is not None:
        counts = found.rows["split"].value_counts()
        yield from _pairs(recipe, int(counts["train"]), int(counts["val"]))


def _pairs(recipe: EvoQualityRecipe, train: int, val: int) -> Iterator[Finding]:
    """Whether the images have so many different pairs; copies are not known here and have no pairs."""
    pairs, variants = recipe.pairs, recipe.pairs.variants
    has_variants = variants.per_image and variants.from_round <= recipe.rounds
    of_variants = round(pairs.count * variants.fraction) if has_variants else 0
    of_images = pairs.count if variants.from_round > 1 or not has_variants else pairs.count - of_variants
    for field, wanted, there in (
        ("pairs.count", of_images, comb(train, 2)),
        ("pairs.held_out", pairs.held_out, comb(val, 2)),
        ("pairs.variants.fraction", of_variants, train * comb(variants.per_image, 2)),
    ):
        if wanted > there:
            yield Finding(
                "table", "FAIL", f"{field} asks for {wanted} pairs, and the images have {there}; set it lower"
            )


def _images(recipe: EvoQualityRecipe, facts: Facts) -> Iterator[Finding]:
    facts["images"] = yield from look_at_images("images", recipe.data, facts.get("table"), LEAST_IMAGES)


def _labelled_sets(recipe: EvoQualityRecipe, facts: Facts) -> Iterator[Finding]:
    if not recipe.evaluation.labelled:
        yield Finding("labels", "note", "no labelled data set, so a run only says how well ratings agree with votes")
    for name, field, data in _labelled(recipe):
        found = yield from look_at_table("labels", data, partial(_check_labelled, data, recipe.seed), field)
        if found is not None:
            used = found.rows["split"] == data.split if data.split else found.rows["split"].notna()
            facts.setdefault("labelled", {})[name] = {data.split or "all": int(used.sum())}
        if found is not None and data.split and not (found.rows["split"] == data.split).any():
            yield Finding("labels", "FAIL", f"{name} has no image of split {data.split}; set {field}.split")
        yield from look_at_images("labels", data, found, field=field)


def _check_labelled(data: Labelled, seed: int) -> CheckedTable:
    """The rows of a labelled data set; where all of them are evaluated, they are all of split `test`."""
    checked = check_table(data, seed)
    if data.split is not None:
        return checked
    rows = checked.images.rows.assign(split="test")
    notes = [note for note in checked.notes if not note.startswith("splits are drawn")]
    return checked._replace(images=checked.images._replace(rows=rows), notes=notes)


def _prompt(recipe: EvoQualityRecipe, facts: Facts) -> Iterator[Finding]:
    from pipeline_lib.methods.evo_quality.prompt import load_prompts

    facts["prompts"] = load_prompts(recipe.prompts)
    yield Finding("prompt", "ok", f"{recipe.prompts}: how to compare two images, and how to rate one")


def _model(recipe: EvoQualityRecipe, facts: Facts) -> Iterator[Finding]:
    if "prompts" not in facts:
        yield Finding("model", "skip", "not checked, because there are no prompts")
        return
    prompts = facts["prompts"]

    def has_index_tokens(processor: Any) -> None:
        from pipeline_lib.methods.evo_quality.votes import index_tokens
        from pipeline_lib.vlm.chat import render_chat

        chat = render_chat(processor, prompts.compare, 2)
        if recipe.votes.method == "exact":
            index_tokens(processor.tokenizer, chat)

    yield from look_at_model(recipe, facts, {prompts.compare: 2, prompts.rate: 1}, has_index_tokens)
    from pipeline_lib.vlm.generate.attention import SHARED

    if recipe.runtime.fsdp:
        raise RecipeError("runtime.fsdp: GRPO cannot sample from shared weights; set it to false")
    if (kind := facts["model"]["model_type"]) not in SHARED:
        raise ModelError(f"GRPO needs a model whose answers share a prefix: {', '.join(sorted(SHARED))}; found {kind}")


def stages(recipe: EvoQualityRecipe, facts: Facts, tokens: Tokens) -> Stages:
    """Votes, the ranking's steps, and ratings, over all rounds."""
    from pipeline_lib.methods.evo_quality.prompt import load_prompts

    images, prompts = known_images_of(recipe.data, facts.get("table")), load_prompts(recipe.prompts)
    votes, grpo, batch, rounds = recipe.votes, recipe.training.grpo, recipe.runtime.generation_batch_size, recipe.rounds
    compare, rate = tokens(prompts.compare), tokens(prompts.rate)
    pairs = rounds * recipe.pairs.count
    partners = recipe.training.partners if recipe.training.target == "votes" else 1
    exact = votes.method == "exact"
    orders = 2 if exact else min(2, votes.answers)  # in which a pair is shown
    found = [
        Stage(
            "vote",
            "generate",
            orders * (pairs + recipe.pairs.held_out),
            compare,
            votes.max_new_tokens,
            orders * batch,
            images=2,
            answers=1 if exact else votes.answers / orders,
            decode=not exact,
        ),
        Stage(
            "train",
            "grpo",
            pairs * (1 + 1 / partners) * recipe.training.epochs,
            rate,
            grpo.max_new_tokens,
            recipe.training.micro_batch_size,
            answers=grpo.answers,
            rank=recipe.training.lora_rank,
            passes=passes_for(grpo.answers, grpo.answers_per_pass),
            unit=1 + partners,
        ),
    ]
    found_here = facts.get("labelled", {})
    labelled = {data.name: found_here.get(data.name) or images_of(data) for data in recipe.evaluation.labelled}
    splits = {data.name: data.split or "all" for data in recipe.evaluation.labelled}
    rated = sum(counts[splits[name]] for name, counts in labelled.items() if counts)
    rated = (rounds + 1) * (rated + min(images["val"], 2 * recipe.pairs.held_out))
    if recipe.training.target == "own_mean":
        rated += rounds * images["train"]
    limit, answers = grpo.max_new_tokens, 1 if recipe.evaluation.exact else recipe.evaluation.answers
    ratings = [Stage("rate", "generate", rated, rate, limit, batch, answers=answers)]
    if not recipe.evaluation.exact:
        ratings.append(Stage("rate greedily", "generate", rated, rate, limit, batch))
    return Stages([*found, *ratings], [name for name, counts in labelled.items() if counts is None])


CHECKS: dict[str, Check] = {
    "table": _table,
    "images": _images,
    "labels": _labelled_sets,
    "prompt": _prompt,
    "model": _model,
}


def surveys(recipe: EvoQualityRecipe) -> list[tuple[str, Survey]]:
    """The images to learn from, and each labelled data set, with how many of its images are in training."""
    trained = survey_data(recipe.data, recipe.seed, LEAST_IMAGES)
    found = [("images to learn from, without scores", trained)]
    for name, _, data in _labelled(recipe):
        images, problems, notes = _check_labelled(data, recipe.seed)
        survey = survey_images(images, data, NO_LIMIT, problems, notes)
        survey = survey._replace(more=[seen_in_training(trained, survey, data.split)])
        found.append((f"{name}: labels, which no training reads", survey))
    return found
