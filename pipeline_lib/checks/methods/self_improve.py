"""The checks of self_improve: ten bins, ten score tokens, prompt, engine and judge."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline_lib.checks.doctor import (
    OPENED_IMAGES,
    Check,
    Facts,
    Finding,
    look_at_images,
    look_at_model,
    look_at_table,
)
from pipeline_lib.checks.estimate.counts import images_of, known_images_of
from pipeline_lib.checks.estimate.stages import Stage, Stages, Tokens
from pipeline_lib.checks.survey import Survey, survey_data
from pipeline_lib.config.base import Data, OpenAIEndpoint
from pipeline_lib.data.table import check_table, read_image_list
from pipeline_lib.errors import DataError, WhyScoreError
from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES, assign_bins, bins_table, fit_bins
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe


def _table(recipe: SelfImproveRecipe, facts: Facts) -> Iterator[Finding]:
    facts["table"] = yield from look_at_table(
        "table", recipe.data, lambda: check_table(recipe.data, recipe.seed, LEAST_IMAGES)
    )
    if facts["table"] is None:
        return
    from pipeline_lib.methods.self_improve.before_run import few_validation_images

    for other in recipe.evaluation.also:
        read_image_list(other, recipe.seed)
    if few := few_validation_images(int((facts["table"].rows["split"] == "val").sum())):
        yield Finding("table", "note", few)


def _images(recipe: SelfImproveRecipe, facts: Facts) -> Iterator[Finding]:
    facts["images"] = found = yield from look_at_images("images", recipe.data, facts.get("table"), LEAST_IMAGES)
    if found is None:
        return
    scores = found["score"].to_numpy()[np.array(found["split"].to_pylist()) == "train"]
    bins = fit_bins(scores)
    empty = np.flatnonzero(np.bincount(assign_bins(scores, bins.edges), minlength=len(bins.mean_scores)) == 0)
    if len(empty) and len(facts["table"].rows) <= OPENED_IMAGES:
        yield Finding(
            "images",
            "note",
            f"no training image is in bin(s) {empty.tolist()}, scores are tied: the model never sees these digits",
        )


def _prompt(recipe: SelfImproveRecipe, facts: Facts) -> Iterator[Finding]:
    from pipeline_lib.methods.self_improve.prompt import load_prompt

    facts["prompt"] = prompt = load_prompt(recipe.prompt)
    yield Finding("prompt", "ok", f"{prompt.name}, about {prompt.criterion.value}")


def _model(recipe: SelfImproveRecipe, facts: Facts) -> Iterator[Finding]:
    if "prompt" not in facts:
        yield Finding("model", "skip", "not checked, because there is no prompt")
        return
    text = facts["prompt"].text

    def has_score_tokens(processor: Any) -> None:
        from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
        from pipeline_lib.vlm.chat import render_chat

        resolve_score_tokens(processor.tokenizer, render_chat(processor, text))

    yield from look_at_model(recipe, facts, {text: 1}, has_score_tokens)


def _engine(recipe: SelfImproveRecipe, facts: Facts) -> Iterator[Finding]:
    if recipe.generation.engine == "transformers":
        return
    from pipeline_lib.openai_server import server_name
    from pipeline_lib.vlm.engine.engine import check_vllm, look_at

    server = recipe.runtime.generation_server.model_copy(update={"timeout_s": 5.0, "max_retries": 0})
    base = server.model or recipe.model.id
    loads, version = look_at(server, base)
    if recipe.iterations > 1 and facts.get("model"):  # else the model's own check has failed
        from pipeline_lib.vlm.load import load_config
        from pipeline_lib.vlm.model_ref import resolve_model

        check_vllm(version, load_config(resolve_model(recipe.model)).model_type)
    name = f" (vLLM {version})" if version else ""
    yield Finding("engine", "ok", f"{base} at {server_name(server.base_url)}{name}; generation begins by testing it")
    if not loads and recipe.iterations > 1:
        yield Finding(
            "engine",
            "note",
            "it loads no adapters at run time, so a run stops when iteration 2 begins and says what to load; see"
            " docs/engines.md",
        )


def _judge(recipe: SelfImproveRecipe, facts: Facts) -> Iterator[Finding]:
    model, endpoint = recipe.judge.openai.model, recipe.runtime.openai
    if model is None:
        yield Finding("judge", "ok", "the local round-trip judge, no key needed")
        return
    from pipeline_lib.judges.endpoint import server_name
    from pipeline_lib.methods.self_improve.before_run import check_judge

    try:
        check_judge(recipe.judge.openai, endpoint)
        if problem := _problem_with_server(model, endpoint):
            raise WhyScoreError(f"the judge's server {server_name(endpoint)} {problem}")
    except WhyScoreError as error:
        raise WhyScoreError(f"{error}; judge.openai.model: null uses only the local judge") from None
    yield Finding("judge", "ok", f"{model} at {server_name(endpoint)}")


def _problem_with_server(model: str, endpoint: OpenAIEndpoint) -> str | None:
    """Ask the server for its models: the cheapest request that tests its address and the key.

    Its own error text is not passed on, because it may repeat parts of the key.
    """
    from openai import APIConnectionError, APIStatusError, DefaultHttpxClient, OpenAI, OpenAIError

    from pipeline_lib.judges.endpoint import KEY_VARIABLE, read_key, server_url
    from pipeline_lib.openai_server import client_settings

    url = server_url(endpoint)
    http = DefaultHttpxClient(timeout=5.0, **client_settings(url))
    try:
        with OpenAI(api_key=read_key(), base_url=url, timeout=5.0, max_retries=0, http_client=http) as client:
            offered = sorted({found.id for found in client.models.list()})
    except APIConnectionError:
        return "cannot be reached; start it, or check the network and runtime.openai.base_url"
    except APIStatusError as error:
        if error.status_code in (401, 403):
            return f"refuses the key (status {error.status_code}); check {KEY_VARIABLE}"
        return f"answers with status {error.status_code}; check runtime.openai.base_url, it usually ends in /v1"
    except (OpenAIError, ValueError, TypeError, AttributeError):
        return "does not answer like an OpenAI-compatible one; check runtime.openai.base_url"
    if model in offered:
        return None
    return f"does not offer the model {model}; set judge.openai.model to one it has ({', '.join(offered[:5])})"


def stages(recipe: SelfImproveRecipe, facts: Mapping[str, Any], tokens: Tokens) -> Stages:
    """Writing pairs, the reference's pass, both trainings, and evaluation, over all iterations."""
    images = known_images_of(recipe.data, facts.get("table"))
    from pipeline_lib.methods.self_improve.prompt import load_prompt

    prompt, limit = tokens(load_prompt(recipe.prompt).text), recipe.model.max_new_tokens
    training, batch, rounds = recipe.training, recipe.runtime.generation_batch_size, recipe.iterations
    written = rounds * images["train"] * recipe.generation.fraction
    swapped = (rounds - 1) * images["train"] * recipe.generation.fraction * recipe.swap.fraction
    merged = 1 + rounds  # the base, the score branch of iteration 1, and the merged model of each further one
    branches = 2 * (rounds - 1)
    tested = merged + (branches if recipe.evaluation.branches == "test" else 0)
    answered = (merged + branches) * images["val"] + tested * images["test"]
    others = [images_of(data) for data in recipe.evaluation.also]
    answered += sum(2 * found["all"] for found in others if found)
    pairs = max(1, batch // 2)
    return Stages(
        [
            Stage("generate", "generate", written, prompt, limit, pairs, answers=2),
            Stage("reference", "read", written, prompt, limit, pairs, answers=2 + swapped / written),
            Stage(
                "train",
                "dpo",
                (written + swapped) * training.epochs,
                prompt,
                limit,
                training.micro_batch_size,
                answers=2,
                rank=training.lora_rank,
            ),
            Stage("evaluate", "generate", answered, prompt, limit, batch),
        ],
        ["data sets of evaluation.also"] if None in others else [],
    )


CHECKS: dict[str, Check] = {
    "table": _table,
    "images": _images,
    "prompt": _prompt,
    "model": _model,
    "engine": _engine,
    "judge": _judge,
}


def surveys(recipe: SelfImproveRecipe) -> list[tuple[str, Survey]]:
    """The table of the run with its ten bins."""
    return [("", scored_survey(recipe.data, recipe.seed))]


def scored_survey(data: Data, seed: int) -> Survey:
    """The survey of a table of scores, and the ten bins of its readable training scores."""
    survey = survey_data(data, seed, LEAST_IMAGES)
    readable = survey.rows[[not fact.problem for fact in survey.facts]]
    train = readable.loc[(readable["split"] == "train") & readable["score"].notna(), "score"].to_numpy(np.float64)
    try:
        lines = bin_lines(train)
    except DataError as error:
        lines = ["bins    the training scores cannot be put into ten bins"]
        if not survey.problems:
            survey.problems.append(str(error))
    return survey._replace(more=[*survey.more, lines])


def bin_lines(train: Any) -> list[str]:
    """The ten bins of training scores as lines of a survey; raises `DataError` when there are none."""
    bins = fit_bins(train)
    rows = bins_table(bins, assign_bins(train, bins.edges)).to_pylist()
    mean = sum(row["train_images"] for row in rows) / len(rows)
    lines = ["bins    a score on an edge belongs to the bin below"]
    lines.append("  bin  above       up to       mean score  training images")
    for row in rows:
        count = row["train_images"]
        remark = "  EMPTY: tied scores" if not count else "  tied scores" if abs(count / mean - 1) > 0.25 else ""
        lines.append(
            f"  {row['bin']:>3}  {row['lower']:<10.5g}  {row['upper']:<10.5g}  {row['mean_score']:<10.5g}"
            f"  {count}{remark}"
        )
    return lines
