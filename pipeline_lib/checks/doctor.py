"""Every check that a run makes, without the run: problems are found before the expensive work."""

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactStore

OPENED_IMAGES = 2000
"""The number of images that are opened, evenly spread; the `discretize` stage opens all."""

State = Literal["ok", "FAIL", "skip", "note"]


class Finding(NamedTuple):
    """The result of one check; `FAIL` prevents a run, `note` is a hint."""

    what: str
    state: State
    message: str


_Facts = dict[str, Any]
"""Results of the checks so far by name, for the checks that need them."""

Check = Callable[[SelfImproveRecipe, _Facts], Iterator[Finding]]


def examine(recipe: SelfImproveRecipe) -> Iterator[Finding]:
    """Run all checks; a check is skipped only if it needs the result of one that failed."""
    yield Finding("recipe", "ok", f"{recipe.name}, {recipe.iterations} iteration(s)")
    facts: _Facts = {}
    for what, check in _CHECKS.items():
        try:
            yield from check(recipe, facts)
        except WhyScoreError as error:
            yield Finding(what, "FAIL", str(error))


def _store(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    store = ArtifactStore(recipe.runtime.store)
    store.check_writable()
    store.check_space()
    found = store.describe()
    yield Finding("store", "ok", f"written, read back and created only once: {found.text}")
    if found.warning:
        yield Finding("store", "note", found.warning)


def _dask(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    if recipe.runtime.dask:
        from pipeline_lib.checks.cluster import check_cluster
        from pipeline_lib.data.user_table import image_folder

        store, folders = ArtifactStore(recipe.runtime.store), (recipe.model.id, image_folder(recipe.data))
        count = check_cluster(recipe.runtime.dask, store, folders)
        yield Finding("dask", "ok", f"{count} worker(s) at {recipe.runtime.dask}, of this version")


def _table(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    data = recipe.data
    paths = {"data.table": data.table} | {f"data.split_lists.{name}": path for name, path in data.split_lists if path}
    absent = {field: path for field, path in paths.items() if _is_absent(path)}
    for field, path in absent.items():
        known = "" if data.dataset == "table" else f"put {data.dataset}'s files there (recipes/README.md) or "
        yield Finding("table", "FAIL", f"{os.path.normpath(path)} does not exist; {known}set {field}")
    if absent:
        return
    from pipeline_lib.data.table import check_table, read_image_list
    from pipeline_lib.methods.self_improve.before_run import few_validation_images
    from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES

    checked = check_table(data, recipe.seed, LEAST_IMAGES)
    yield from (Finding("table", "FAIL", problem) for problem in checked.problems)
    if checked.problems:
        return
    facts["table"] = checked.images
    rows, splits = checked.images.rows, checked.images.rows["split"].value_counts()
    counts = ", ".join(f"{count} {split}" for split, count in splits.items())
    yield Finding(
        "table", "ok", f"{len(rows)} images ({counts}), scores {rows['score'].min():g} to {rows['score'].max():g}"
    )
    yield from (Finding("table", "note", note) for note in checked.notes)
    for other in recipe.evaluation.also:
        read_image_list(other, recipe.seed)
    if few := few_validation_images(splits["val"]):
        yield Finding("table", "note", few)
    for column, field in (("split", "split_column"), ("group", "group_column")):
        if f"user_{column}" in rows and getattr(data, field) is None:
            yield Finding(
                "table", "note", f"its column {column} is not used; if the name is right, set data.{field}: {column}"
            )


def _images(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    data, image_list = recipe.data, facts.get("table")
    if data.images and _is_absent(data.images):
        raise WhyScoreError(f"image folder {os.path.normpath(data.images)} does not exist; set data.images")
    if image_list is None:
        yield Finding("images", "skip", "not opened, because the table was not read")
        return
    from pipeline_lib.data.leaks import refuse_leaks
    from pipeline_lib.methods.self_improve.discretize import discretize_scores

    step = -(-len(image_list.rows) // OPENED_IMAGES)
    opened = image_list._replace(rows=image_list.rows.iloc[::step].reset_index(drop=True))
    found = discretize_scores(opened, data.max_unreadable_fraction, data.max_megapixels)
    of = f" of {len(opened.rows)} opened ({len(image_list.rows)} in the table)" if step > 1 else ""
    yield Finding("images", "ok", f"{found.images.num_rows} readable{of}, {found.unreadable.num_rows} left out")
    copied = found.images.select(["image", "image_sha256", "split"]).to_pydict()
    refuse_leaks(copied["image"], copied["image_sha256"], copied["split"], data.max_near_duplicate_fraction)
    facts["images"] = found.images
    empty = [row["bin"] for row in found.bins.to_pylist() if row["train_images"] == 0]
    if empty and step == 1:
        yield Finding(
            "images",
            "note",
            f"no training image is in bin(s) {empty}, scores are tied: the model never sees these digits",
        )


def _is_absent(path: str) -> bool:
    return "://" not in path and not os.path.exists(path)


def _prompt(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    from pipeline_lib.methods.self_improve.prompt import load_prompt

    facts["prompt"] = prompt = load_prompt(recipe.prompt)
    yield Finding("prompt", "ok", f"{prompt.name}, about {prompt.criterion.value}")


def _model(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    if "prompt" not in facts:
        yield Finding("model", "skip", "not checked, because there is no prompt")
        return
    from pipeline_lib.vlm.model_ref import resolve_model

    base = resolve_model(recipe.model, ArtifactStore(recipe.runtime.store))
    base.folder(weights=False)  # what is not there is found without importing what would load it, which takes seconds
    from pipeline_lib.methods.self_improve.check_model import check_model
    from pipeline_lib.vlm.shapes import check_shapes_of

    facts["model"] = found = check_model(base, facts["prompt"])
    if "images" in facts:
        check_shapes_of(facts["images"], base)
    size = f"{found['parameters'] / 1e6:.1f} M parameters"
    yield Finding("model", "ok", f"{found['architecture']}, {size}, LoRA on {found['lora_layers']} layers")


def _memory(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    from pipeline_lib.device import check_memory, check_weights, device_memory

    check_memory(recipe.runtime)
    found, need = device_memory(recipe.runtime.device), recipe.runtime.min_memory_gb
    known = facts.get("model")
    if known:
        check_weights(known["parameters"], recipe.model.dtype, recipe.runtime)
    yield Finding(
        "memory", "ok", f"{found.device} has {found.gb:.1f} GB" + (f", {need:g} GB are needed" if need else "")
    )


def _engine(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
    if recipe.generation.engine == "transformers":
        return
    from pipeline_lib.openai_server import server_name
    from pipeline_lib.vlm.engine.engine import check_vllm, look_at
    from pipeline_lib.vlm.load import load_config
    from pipeline_lib.vlm.model_ref import resolve_model

    server = recipe.runtime.generation_server.model_copy(update={"timeout_s": 5.0, "max_retries": 0})
    base = server.model or recipe.model.id
    loads, version = look_at(server, base)
    if recipe.iterations > 1:
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


def _judge(recipe: SelfImproveRecipe, facts: _Facts) -> Iterator[Finding]:
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


_CHECKS: dict[str, Check] = {
    "store": _store,
    "dask": _dask,
    "table": _table,
    "images": _images,
    "prompt": _prompt,
    "model": _model,
    "memory": _memory,
    "engine": _engine,
    "judge": _judge,
}
