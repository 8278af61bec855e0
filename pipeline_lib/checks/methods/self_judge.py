"""The checks of self_judge: images with questions, pairs to measure with, and the prompts."""

from collections.abc import Iterator

from pipeline_lib.checks.doctor import Check, Facts, Finding, look_at_images, look_at_model
from pipeline_lib.checks.estimate.stages import SHARE_OF_LIMIT, Stage, Stages, Tokens
from pipeline_lib.checks.survey import Survey, seen_in_training, survey_images
from pipeline_lib.data.table import NO_LIMIT
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_judge import answer_pairs, prompts_table
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe


def _table(recipe: SelfJudgeRecipe, facts: Facts) -> Iterator[Finding]:
    found = prompts_table.read_prompts(recipe.data, recipe.seed)
    facts["table"], kinds = found.images, found.rows["kind"]
    facts["kinds"] = {split: kinds[found.rows["split"] == split].value_counts().to_dict() for split in ("train", "val")}
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
        facts["answer pairs"] = facts.get("answer pairs", 0) + len(found.rows)
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


_SHORT_TOKENS = 16
"""Of an answer to a closed question, assumed."""
_BECOME_PAIRS = 0.5
"""Share of the questions that a pair comes of, and of the pairs whose reasons are kept; assumed."""


def stages(recipe: SelfJudgeRecipe, facts: Facts, tokens: Tokens) -> Stages:
    """Synthetic pairs, reasons, training and measuring, over all iterations."""
    from pipeline_lib.judges.vlm_judge import load_judge_prompt
    from pipeline_lib.methods.self_judge.pairs import load_inject_prompt

    kinds = facts.get("kinds")
    if kinds is None:
        raise DataError("no estimate: the table of questions is not on this machine")
    pairs, reasons, rounds = recipe.pairs, recipe.reasons, recipe.iterations
    share, held_out = {"open": pairs.share, "closed": pairs.closed_share or pairs.share}, recipe.evaluation.held_out
    rows = {
        kind: rounds * share[kind] * kinds["train"].get(kind, 0) + held_out * kinds["val"].get(kind, 0)
        for kind in share
    }
    batch, length = recipe.runtime.generation_batch_size, SHARE_OF_LIMIT * pairs.max_new_tokens
    question = tokens("x" * 100)
    inject = tokens(load_inject_prompt(pairs.inject_prompt).text) + length
    answers = {"open": length, "closed": _SHORT_TOKENS}
    made = {kind: _BECOME_PAIRS * rounds * share[kind] * kinds["train"].get(kind, 0) for kind in share}
    total = max(sum(made.values()), 1)
    judged = tokens(load_judge_prompt(reasons.prompt).text) + question
    judged += 2 * sum(answers[kind] * count for kind, count in made.items()) / total
    measured = facts.get("answer pairs", 0) + _BECOME_PAIRS * held_out * sum(kinds["val"].values())
    training = recipe.training
    found = [
        Stage("answer", "generate", rows["open"], question, pairs.max_new_tokens, batch),
        Stage("rewrite with errors", "generate", rows["open"], inject, pairs.max_new_tokens, batch),
        Stage(
            "vote",
            "generate",
            rows["closed"],
            question,
            2 * _SHORT_TOKENS,
            max(1, batch // pairs.votes),
            answers=pairs.votes,
            length=_SHORT_TOKENS,
        ),
        Stage(
            "reason",
            "generate",
            2 * sum(made.values()),
            judged,
            reasons.max_new_tokens,
            max(1, batch // reasons.samples),
            answers=reasons.samples,
        ),
        Stage(
            "train",
            "sft",
            2 * _BECOME_PAIRS * sum(made.values()) * training.epochs,
            judged,
            reasons.max_new_tokens,
            training.micro_batch_size,
            rank=training.lora_rank,
        ),
        Stage("evaluate", "generate", 2 * (rounds + 1) * measured, judged, reasons.max_new_tokens, batch),
    ]
    absent = "" if facts.get("answer pairs") or not recipe.evaluation.pairs else "pairs with a known answer"
    return Stages([stage for stage in found if stage.rows], [absent] if absent else [])


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
