"""Which model of a run rates new images."""

from typing import NamedTuple

from pipeline_lib.errors import StoreError
from pipeline_lib.report.verdict import verdict_of_run
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.runs import RunFolder


class Chosen(NamedTuple):
    """A model of a run, why it was chosen, and the warnings of the run's verdict."""

    name: str
    adapter: ArtifactRef | None  # None: the base
    why: str
    warnings: tuple[str, ...]


def chosen_round(run: RunFolder, iteration: int | None) -> Chosen:
    """The model of a round; without one the best by the run's verdict, else the model that the run ended with.

    Raises `StoreError` when the run has no such model.
    """
    verdict = verdict_of_run(run)
    warnings = verdict.warnings if verdict else ()
    if iteration is None and verdict and verdict.best:
        name, why = verdict.best.name, f"the best of the run, with {verdict.best.rule}"
        if not verdict.best.iteration:
            return Chosen(name, None, why, warnings)
        role = f"iteration-{verdict.best.iteration:02d}/{verdict.best.kind}/adapter"
    elif iteration is None:
        missing = "names no best one, which needs labels" if verdict else "is missing; run its recipe to its end"
        role, name, why = "model", "the last model", f"the one that the run ended with, because its verdict {missing}"
    else:
        role, name, why = f"iteration-{iteration:02d}/ranking/adapter", f"round {iteration}", "asked for by iteration"
    adapter = run.find(role)
    if adapter is None:
        rounds = ", ".join(str(model.iteration) for model in run.models() if model.iteration) or "none yet"
        raise StoreError(f"{run.store.root}: run {run.name} has no model {role}; rounds with a model: {rounds}")
    return Chosen(name, adapter, why, warnings)
