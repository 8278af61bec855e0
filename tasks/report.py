"""everything -> the report, the model card and the results table."""

from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline_lib.data.photographs import Photographs
from pipeline_lib.recipe import Recipe
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


class EvaluatedModel(BaseModel):
    """Where the results of one row of the paper's Table 1 are."""

    model_config = ConfigDict(frozen=True)

    iteration: int
    kind: Literal["zero-shot", "score", "consistency", "merged"]
    predictions: ArtifactRef
    verdicts: ArtifactRef
    training: ArtifactRef | None = None


class Settings(BaseModel):
    """The recipe as the report shows it; its transient fields are not part of the report or of its key."""

    model_config = ConfigDict(frozen=True)

    recipe: Recipe

    def key_fields(self) -> dict[str, Any]:
        """Every field that can change a result."""
        data = self.recipe.data.key_fields()
        return self.recipe.model_dump(mode="json", exclude={"runtime", "data"}) | {"data": data}


@stage(version=1)
def report(
    work: Work,
    settings: Settings,
    base: ModelRef,
    photographs: Photographs,
    fitted_judge: ArtifactRef,
    models: list[EvaluatedModel],
) -> None:
    """One HTML file with the run's Table 1 and Fig. 1, a model card, and the results table as text."""
    from pipeline_lib.report.contents import ModelResults, RunResults
    from pipeline_lib.report.html import render_report
    from pipeline_lib.report.model_card import model_card
    from pipeline_lib.report.text import results_table

    rows = [
        ModelResults(
            iteration=model.iteration,
            kind=model.kind,
            predictions=work.read(model.predictions, "predictions"),
            reference_values=work.read(model.predictions, "reference_values"),
            metrics=pa.concat_tables([work.read(model.predictions, "metrics"), work.read(model.verdicts, "metrics")]),
            verdicts=work.read(model.verdicts, "verdicts"),
            training_log=work.read(model.training, "training_log") if model.training else None,
        )
        for model in models
    ]
    results = RunResults(
        recipe=settings.recipe.model_copy(update={"runtime": type(settings.recipe.runtime)()}),
        model_name=base.name,
        images=work.read(photographs.table, "images"),
        bins=work.read(photographs.table, "bins"),
        unreadable_images=work.read(photographs.table, "unreadable_images"),
        judge_holdout=work.read(fitted_judge, "judge_holdout"),
        models=rows,
    )
    folder = work.attempt.folder
    page = render_report(results, photographs.opener(base.resize_px))
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "model_card.md").write_text(model_card(results), encoding="utf-8")
    (folder / "results.txt").write_text(results_table(results), encoding="utf-8")
