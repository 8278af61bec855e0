"""Every check that a run makes, without the run: problems are found before the expensive work.

The checks here hold for every method. The module `pipeline_lib.checks.methods.<method>` has those of a method.
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from pipeline_lib.config.base import BaseRecipe, Data, ImageData, Split
from pipeline_lib.data.table import NO_LIMIT, CheckedTable, ImageList, check_table
from pipeline_lib.errors import RecipeError, WhyScoreError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.trackers.tracker import check_trackers

OPENED_IMAGES = 2000
"""The number of images of a table that are opened, evenly spread; a run opens all."""

State = Literal["ok", "FAIL", "skip", "note"]


class Finding(NamedTuple):
    """The result of one check; `FAIL` prevents a run, `note` is a hint."""

    what: str
    state: State
    message: str


Facts = dict[str, Any]
"""Results of the checks so far by name, for the checks that need them."""

Check = Callable[[Any, Facts], Iterator[Finding]]
"""A recipe and the facts so far -> what was found. A `WhyScoreError` that it raises is a `FAIL`."""


def examine(recipe: BaseRecipe, card: str | None = None) -> Iterator[Finding]:
    """Run all checks of a recipe's method; a check is skipped only if it needs the result of one that failed.

    Memory and hours are estimated for this machine, or for one of `CARDS`. Raises `RecipeError` for another `card`.
    """
    from pipeline_lib.checks.estimate.ceiling import CARDS
    from pipeline_lib.checks.methods import checks_of

    if card is not None and card not in CARDS:
        raise RecipeError(f"--card: expected one of {', '.join(CARDS)}; there are no figures of others")

    yield Finding("recipe", "ok", f"{recipe.name}, a run of {recipe.method}")
    facts: Facts = {"card": card}
    for what, check in checks_of(recipe.method).items():
        try:
            yield from check(recipe, facts)
        except WhyScoreError as error:
            yield Finding(what, "FAIL", str(error))


def _store(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    store = ArtifactStore(recipe.runtime.store)
    store.check_writable()
    store.check_space()
    found = store.describe()
    yield Finding("store", "ok", f"written, read back and created only once: {found.text}")
    if found.warning:
        yield Finding("store", "note", found.warning)


def _dask(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    if recipe.runtime.dask:
        from pipeline_lib.checks.cluster import check_cluster
        from pipeline_lib.data.user_table import image_folder

        store, folders = ArtifactStore(recipe.runtime.store), (recipe.model.id, image_folder(recipe.data))
        count = check_cluster(recipe.runtime.dask, store, folders)
        yield Finding("dask", "ok", f"{count} worker(s) at {recipe.runtime.dask}, of this version")


def _trackers(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    if names := recipe.runtime.trackers:
        check_trackers(names)
        yield Finding("trackers", "ok", f"{', '.join(names)} can be used; no server was asked")


def _table(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    facts["table"] = yield from look_at_table("table", recipe.data, lambda: check_table(recipe.data, recipe.seed))


def look_at_table(
    what: str, data: ImageData, check: Callable[[], CheckedTable], field: str = "data"
) -> Generator[Finding, None, ImageList | None]:
    """Look for the files of a table, and `check` its rows; returns its `ImageList`, None when it has a problem."""
    paths = {f"{field}.table": data.table}
    paths |= {f"{field}.split_lists.{name}": path for name, path in data.split_lists if path}
    absent = {at: path for at, path in paths.items() if _is_absent(path)}
    for at, path in absent.items():
        known = "" if data.dataset == "table" else f"put {data.dataset}'s files there (recipes/README.md) or "
        yield Finding(what, "FAIL", f"{os.path.normpath(path)} does not exist; {known}set {at}")
    if absent:
        return None
    checked = check()
    yield from (Finding(what, "FAIL", problem) for problem in checked.problems)
    if checked.problems:
        return None
    rows, splits = checked.images.rows, checked.images.rows["split"].value_counts()
    counts = ", ".join(f"{count} {split}" for split, count in splits.items())
    scores = f", scores {rows['score'].min():g} to {rows['score'].max():g}" if isinstance(data, Data) else ""
    yield Finding(what, "ok", f"{len(rows)} images ({counts}){scores}")
    yield from (Finding(what, "note", note) for note in checked.notes)
    for column, at in (("split", "split_column"), ("group", "group_column")):
        if f"user_{column}" in rows and getattr(data, at) is None:
            yield Finding(
                what, "note", f"its column {column} is not used; if the name is right, set {field}.{at}: {column}"
            )
    return checked.images


def _images(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    facts["images"] = yield from look_at_images("images", recipe.data, facts.get("table"))


def look_at_images(
    what: str,
    data: ImageData,
    images: ImageList | None,
    least: Mapping[Split, int] = NO_LIMIT,
    field: str = "data",
) -> Generator[Finding, None, pa.Table | None]:
    """Open images of a checked table, evenly spread; returns the table of those that were read, None without a table.

    Raises `DataError` for what a run refuses: too many unreadable ones, copies between splits.
    """
    if data.images and _is_absent(data.images):
        raise WhyScoreError(f"image folder {os.path.normpath(data.images)} does not exist; set {field}.images")
    if images is None:
        yield Finding(what, "skip", "not opened, because the table was not read")
        return None
    from pipeline_lib.data.leaks import refuse_leaks
    from pipeline_lib.data.read_images import read_images

    step = -(-len(images.rows) // OPENED_IMAGES)
    opened = images._replace(rows=images.rows.iloc[::step].reset_index(drop=True))
    found = read_images(opened, data.max_unreadable_fraction, data.max_megapixels, least)
    of = f" of {len(opened.rows)} opened ({len(images.rows)} in the table)" if step > 1 else ""
    yield Finding(what, "ok", f"{len(found.rows)} readable{of}, {found.unreadable.num_rows} left out")
    names, digests, splits = (found.rows[name].tolist() for name in ("image", "image_sha256", "split"))
    refuse_leaks(names, digests, splits, data.max_near_duplicate_fraction)
    return found.images


def _is_absent(path: str) -> bool:
    return "://" not in path and not os.path.exists(path)


def _prompt(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    """A method with prompts of its own has a check of this name."""
    yield from ()


def _model(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    yield from look_at_model(recipe, facts, {"What is in the image?": 1})


def look_at_model(
    recipe: BaseRecipe, facts: Facts, prompts: Mapping[str, int], check: Callable[[Any], None] = lambda processor: None
) -> Iterator[Finding]:
    """Whether the base can be used: it renders the prompts, each about so many images, and has layers for LoRA.

    `check` raises `WhyScoreError` for a processor that the method cannot use. No weights are loaded. Keeps what was
    found as the fact `model`.
    """
    from pipeline_lib.vlm.model_ref import resolve_model

    base = resolve_model(recipe.model, ArtifactStore(recipe.runtime.store))
    base.folder(weights=False)  # what is not there is found without importing what would load it, which takes seconds
    from pipeline_lib.train.check_model import check_model
    from pipeline_lib.vlm.load import load_processor
    from pipeline_lib.vlm.shapes import check_shapes_of

    check(load_processor(base))
    for prompt, images in prompts.items():
        facts["model"] = found = check_model(base, prompt, images)
    if facts.get("images") is not None:
        check_shapes_of(facts["images"], base)
    size = f"{found['parameters'] / 1e6:.1f} M parameters"
    yield Finding("model", "ok", f"{found['architecture']}, {size}, LoRA on {found['lora_layers']} layers")


def _memory(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    from pipeline_lib.device import check_memory, check_weights, device_memory

    check_memory(recipe.runtime)
    found, need = device_memory(recipe.runtime.device), recipe.runtime.min_memory_gb
    known = facts.get("model")
    if known:
        check_weights(known["parameters"], recipe.model.dtype, recipe.runtime)
    yield Finding(
        "memory", "ok", f"{found.device} has {found.gb:.1f} GB" + (f", {need:g} GB are needed" if need else "")
    )


def _size(recipe: BaseRecipe, facts: Facts) -> Iterator[Finding]:
    """An estimate of memory and hours; a hint, so it never prevents a run."""
    from pipeline_lib.checks.methods import stages_of
    from pipeline_lib.vlm.model_ref import resolve_model

    counted = stages_of(recipe.method)
    if counted is None:
        return
    from pipeline_lib.checks.estimate.report import estimate, sentences

    try:
        base = resolve_model(recipe.model, ArtifactStore(recipe.runtime.store))
        found = estimate(recipe, base, facts, counted, facts["card"])
    except WhyScoreError as error:
        yield Finding("size", "skip", str(error))
        return
    for what, (state, text) in zip(("size", "hours"), sentences(found, recipe, facts["card"]), strict=True):
        yield Finding(what, "note" if state == "note" else "ok", text)


COMMON: dict[str, Check] = {
    "store": _store,
    "dask": _dask,
    "trackers": _trackers,
    "table": _table,
    "images": _images,
    "prompt": _prompt,
    "model": _model,
    "memory": _memory,
    "size": _size,
}
"""The checks of every method."""
