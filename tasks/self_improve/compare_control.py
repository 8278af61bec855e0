"""models of a run and of its control -> the comparison as a table, a page and a text."""

import logging
from collections.abc import Sequence

from pipeline_lib.store import ArtifactRef, Manifest, Miss
from pipeline_lib.store.key import key_fields
from tasks.common import run as common
from tasks.self_improve.report import EvaluatedModel, Settings
from tasks.self_improve.run import Run
from tasks.stage import Work, stage

log = logging.getLogger("whyscore.stage")


@stage(version=1)
def compare_control(
    work: Work,
    settings: Settings,
    zero_shot: EvaluatedModel,
    final: EvaluatedModel,
    control: EvaluatedModel,
) -> None:
    """Compare what a run and its control gained over the same zero-shot model, on test, by every reading and Cons."""
    from pipeline_lib.methods.self_improve.report.contents import Judged, ModelResults
    from pipeline_lib.methods.self_improve.report.control import control_page, control_text
    from pipeline_lib.methods.self_improve.report.control_figures import CONTROL_FIGURES, control_figures
    from pipeline_lib.report.page import render_page

    def results_of(model: EvaluatedModel) -> ModelResults:
        judged = model.openai_verdicts or model.verdicts
        return ModelResults(
            iteration=model.iteration,
            kind=model.kind,
            predictions=work.read(model.predictions, "predictions"),
            reference_values=work.read(model.predictions, "reference_values"),
            metrics=work.read(model.predictions, "metrics"),
            judged=Judged(work.read(judged, "verdicts"), work.read(judged, "metrics")),
            second=None,
            training_log=None,
        )

    recipe = settings.recipe
    models = results_of(zero_shot), results_of(final), results_of(control)
    table = control_figures(*models, recipe.evaluation.bootstrap, recipe.seed)
    work.write(CONTROL_FIGURES, table)
    folder = work.attempt.folder
    (folder / "report.html").write_text(render_page(control_page(recipe, table)), encoding="utf-8")
    (folder / "results.txt").write_text(control_text(recipe, table), encoding="utf-8")


def finished_control(run: Run, models: Sequence[EvaluatedModel]) -> ArtifactRef | None:
    """The comparison of these models of a run with its control; None when there is none, or it is of other models."""
    folder = common.finished_control(run.folder)
    if folder is None:
        return None
    found = folder.find("report")
    manifest = run.store.lookup(found.address) if found else None
    if isinstance(manifest, Miss):
        log.warning("the report is without the run's control, whose comparison is %s", manifest.reason)
    compared = key_fields({"zero_shot": models[0], "final": models[-1]})
    if not isinstance(manifest, Manifest) or not compared.items() <= manifest.arguments.items():
        return None
    return found
