"""Find the model of a run."""

from typing import Literal, NamedTuple, get_args

from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.report.verdict import verdict_of_run
from pipeline_lib.store import ArtifactRef, Miss
from pipeline_lib.store.key import key_fields
from pipeline_lib.store.runs import RunFolder, RunModel
from pipeline_lib.vlm.model_ref import ModelRef

Kind = Literal["score", "consistency", "merged"]


class Trained(NamedTuple):
    """A model of a run: base and adapter, and its evaluation, which holds its reference values.

    The best model of a run may be its base without an adapter.
    """

    name: str
    model: ModelRef
    evaluated: ArtifactRef
    why: str = ""  # why this model
    warnings: tuple[str, ...] = ()  # of the run's verdict


class Chosen(NamedTuple):
    """A model of a run, why it was chosen, and the warnings of the run's verdict."""

    model: RunModel
    why: str
    warnings: tuple[str, ...]


def chosen_model(run: RunFolder, iteration: int | None = None, kind: str | None = None) -> Chosen:
    """The model of one iteration or kind; without either the best one by the run's verdict (decision 22).

    The newest one where the run has no verdict that names one: an earlier version made it, or it has not ended. Of one
    iteration it is the merged model, or the only one. Raises `StoreError` when the run has no such model.
    """
    found, verdict = run.models(), verdict_of_run(run)
    warnings = verdict.warnings if verdict else ()
    if iteration is None and kind is None and verdict and verdict.best:
        best = RunModel(verdict.best.iteration, verdict.best.kind)
        return Chosen(best, f"the best of the run, with {verdict.best.rule}", warnings)
    wanted = [
        model
        for model in found
        if model.kind in get_args(Kind)
        and iteration in (None, model.iteration)
        and (model.kind == kind if kind else model.kind == "merged" or (model.iteration, model.kind) == (1, "score"))
    ]
    if not wanted:
        there = ", ".join(model.name for model in found if model.iteration) or "none yet"
        raise StoreError(
            f"{run.store.root}: run {run.name} has no evaluated model"
            f"{f' of iteration {iteration}' if iteration else ''}{f' of kind {kind}' if kind else ''}; it has {there}"
        )
    asked = [f"iteration {iteration}"] * (iteration is not None) + [f"kind {kind}"] * (kind is not None)
    if asked:
        return Chosen(wanted[-1], f"asked for by {' and '.join(asked)}", warnings)
    why = "the newest: this run has no verdict yet; run its recipe to its end, finished stages are cached"
    return Chosen(wanted[-1], why, warnings)


def trained_model(
    run: RunFolder,
    base: ModelRef,
    prompt: Prompt,
    *,
    iteration: int | None = None,
    kind: Kind | None = None,
) -> Trained:
    """The model of a run to use: that of an iteration or kind, else the best one (`chosen_model`).

    `run` is that of the recipe (see `open_run`). Raises `StoreError` when it has no such model, `RecipeError` when base
    model or prompt are not those of its training: a file that the recipe names may have changed.
    """
    store, chosen = run.store, chosen_model(run, iteration, kind)
    name = chosen.model.name
    model = base.with_adapter(_artifact(run, chosen.model.role("adapter"))) if chosen.model.iteration else base
    evaluated = _artifact(run, chosen.model.role("predictions"))
    manifest = store.lookup(evaluated.address)
    if isinstance(manifest, Miss):
        raise StoreError(f"{store.path(evaluated.address)}: {manifest.reason}; run the recipe again")
    for what, now in (("model", model), ("prompt", prompt)):
        if key_fields(now) != manifest.arguments["inputs"][what]:
            raise RecipeError(
                f"{what}: the recipe is not the one that {name} of run {run.name} was made with; give that one, or run"
                " this one first"
            )
    return Trained(name, model, evaluated, chosen.why, chosen.warnings)


def _artifact(run: RunFolder, role: str) -> ArtifactRef:
    if (found := run.find(role)) is None:
        raise StoreError(f"{run.store.root}: run {run.name} lacks {role}.json; run the recipe again, which writes it")
    return found
