"""Find the model of a run."""

from typing import Literal, NamedTuple, get_args

from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.store import ArtifactRef, Miss
from pipeline_lib.store.key import key_fields
from pipeline_lib.store.runs import RunFolder
from pipeline_lib.vlm.model_ref import ModelRef

Kind = Literal["score", "consistency", "merged"]


class Trained(NamedTuple):
    """A model of a run: base and adapter, and its evaluation, which holds its reference values."""

    name: str
    model: ModelRef
    evaluated: ArtifactRef


def trained_model(
    run: RunFolder,
    base: ModelRef,
    prompt: Prompt,
    *,
    iteration: int | None = None,
    kind: Kind | None = None,
) -> Trained:
    """The model of one iteration of a run; by default the newest merged one (of a run of one iteration, its only one).

    `run` is that of the recipe (see `open_run`). Raises `StoreError` when it has no such model, `RecipeError` when base
    model or prompt are not those of its training: a file that the recipe names may have changed.
    """
    store, found = run.store, [model for model in run.models() if model.kind in get_args(Kind)]
    wanted = [
        model
        for model in found
        if iteration in (None, model.iteration)
        and (model.kind == kind if kind else model.kind == "merged" or (model.iteration, model.kind) == (1, "score"))
    ]
    if not wanted:
        there = ", ".join(f"ite-{n} {k}" for n, k in found) or "none yet"
        raise StoreError(
            f"{store.root}: run {run.name} has no evaluated model{f' of iteration {iteration}' if iteration else ''}"
            f"{f' of kind {kind}' if kind else ''}; it has {there}"
        )
    newest = wanted[-1]
    name = f"ite-{newest.iteration} {newest.kind}"
    model = base.with_adapter(_artifact(run, newest.role("adapter")))
    evaluated = _artifact(run, newest.role("predictions"))
    manifest = store.lookup(evaluated.address)
    if isinstance(manifest, Miss):
        raise StoreError(f"{store.path(evaluated.address)}: {manifest.reason}; run the recipe again")
    for what, now in (("model", model), ("prompt", prompt)):
        if key_fields(now) != manifest.arguments["inputs"][what]:
            raise RecipeError(
                f"{what}: the recipe is not the one that {name} of run {run.name} was made with; give that one, or run"
                " this one first"
            )
    return Trained(name, model, evaluated)


def _artifact(run: RunFolder, role: str) -> ArtifactRef:
    if (found := run.find(role)) is None:
        raise StoreError(f"{run.store.root}: run {run.name} lacks {role}.json; run the recipe again, which writes it")
    return found
