"""Find the model that a run has made."""

import re
from typing import Literal, NamedTuple

from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.store import ArtifactRef, ArtifactStore, Miss
from pipeline_lib.store.key import key_fields, read_reference
from pipeline_lib.vlm.model_ref import ModelRef

Kind = Literal["score", "consistency", "merged"]


class Trained(NamedTuple):
    """A model of a run: base and adapter, and its evaluation, which holds its reference values."""

    name: str
    model: ModelRef
    evaluated: ArtifactRef


def trained_model(
    store: ArtifactStore,
    run: str,
    base: ModelRef,
    prompt: Prompt,
    *,
    iteration: int | None = None,
    kind: Kind | None = None,
) -> Trained:
    """The model of one iteration of a run; by default the newest merged one (of a run of one iteration, its only one).

    Raises `StoreError` when the run has no such model, `RecipeError` when the recipe's base model or prompt are not
    those that it was trained with.
    """
    found = {}
    for path in store.pointers(f"runs/{run}"):
        if match := re.fullmatch(r"iteration-(\d+)/(score|consistency|merged)/predictions\.json", path):
            found[int(match[1]), match[2]] = path
    wanted = [
        (n, k)
        for n, k in sorted(found)
        if iteration in (None, n) and (k == kind if kind else k == "merged" or (n == 1 and k == "score"))
    ]
    if not wanted:
        there = ", ".join(f"ite-{n} {k}" for n, k in sorted(found)) or "none yet"
        raise StoreError(
            f"{store.root}: run {run} has no evaluated model{f' of iteration {iteration}' if iteration else ''}"
            f"{f' of kind {kind}' if kind else ''}; it has {there}. Is this the store of the run (runtime.store)?"
        )
    n, of_kind = wanted[-1]
    name, folder = f"ite-{n} {of_kind}", f"runs/{run}/iteration-{n:02d}/{of_kind}"
    model = base.with_adapter(_pointer(store, f"{folder}/adapter.json"))
    evaluated = _pointer(store, f"{folder}/predictions.json")
    manifest = store.lookup(evaluated.address)
    if isinstance(manifest, Miss):
        raise StoreError(f"{store.path(evaluated.address)}: {manifest.reason}; run the recipe again")
    for what, now in (("model", model), ("prompt", prompt)):
        if key_fields(now) != manifest.arguments[what]:
            raise RecipeError(
                f"{what}: the recipe is not the one that {name} of run {run} was made with; give that one, or run this"
                " one first"
            )
    return Trained(name, model, evaluated)


def _pointer(store: ArtifactStore, path: str) -> ArtifactRef:
    value = store.read_pointer(path)
    if value is None:
        raise StoreError(f"{store.path(path)} is missing or damaged; run the recipe again, which writes it anew")
    return read_reference(value)
