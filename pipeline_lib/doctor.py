"""Every check that a run makes, on its own: what is wrong is found before the expensive work."""

import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipeline_lib.errors import WhyScoreError
from pipeline_lib.recipe import Recipe
from pipeline_lib.store import ArtifactStore

LEAST_FREE_BYTES = 1 << 30


class Finding(NamedTuple):
    """The outcome of one check."""

    what: str
    ok: bool
    message: str


def examine(recipe: Recipe) -> Iterator[Finding]:
    """Run the checks one after the other; one that fails does not keep the others from running."""
    checks: list[tuple[str, Callable[[Recipe], str]]] = [
        ("store", _store),
        ("table", _table),
        ("images", _images),
        ("model", _model),
    ]
    yield Finding("recipe", True, f"{recipe.name}, {recipe.iterations} iteration(s)")
    failed: set[str] = set()
    for what, check in checks:
        if what == "images" and "table" in failed:  # they are listed by the table
            continue
        try:
            yield Finding(what, True, check(recipe))
        except WhyScoreError as error:
            failed.add(what)
            yield Finding(what, False, str(error))


def _store(recipe: Recipe) -> str:
    store = ArtifactStore(recipe.runtime.store)
    store.check_writable()
    free = shutil.disk_usage(store.root).free
    if free < LEAST_FREE_BYTES:
        raise WhyScoreError(
            f"{store.root} has {free / 1e9:.1f} GB free, at least {LEAST_FREE_BYTES / 1e9:.1f} GB are needed"
        )
    return f"{store.root} can be written, {free / 1e9:.0f} GB free"


def _table(recipe: Recipe) -> str:
    from pipeline_lib.data.table import read_image_list

    rows = read_image_list(recipe.data, recipe.seed).rows
    counts = ", ".join(f"{count} {split}" for split, count in rows["split"].value_counts().items())
    return f"{len(rows)} images ({counts}), scores {rows['score'].min():g} to {rows['score'].max():g}"


def _images(recipe: Recipe) -> str:
    from pipeline_lib.data.discretize import discretize_scores
    from pipeline_lib.data.table import read_image_list

    data = recipe.data
    found = discretize_scores(read_image_list(data, recipe.seed), data.max_unreadable_fraction, data.max_megapixels)
    empty = [row["bin"] for row in found.bins.to_pylist() if row["train_images"] == 0]
    note = f"; no training image is in bin(s) {empty}, their scores are tied" if empty else ""
    return f"{found.images.num_rows} readable, {found.unreadable.num_rows} left out{note}"


def _model(recipe: Recipe) -> str:
    from pipeline_lib.vlm.check import check_model
    from pipeline_lib.vlm.model_ref import resolve_model
    from pipeline_lib.vlm.prompt import load_prompt

    facts = check_model(resolve_model(recipe.model), load_prompt(recipe.prompt))
    size = f"{facts['parameters'] / 1e6:.1f} M parameters"
    return f"{facts['architecture']}, {size}, LoRA on {facts['lora_layers']} layers"
