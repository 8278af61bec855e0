"""models of an experiment -> their table and its page."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline_lib.methods.self_improve.recipe import Merge, Training
from pipeline_lib.store import ArtifactRef
from tasks.self_improve.report import Settings
from tasks.stage import Work, stage


class ComparedModel(BaseModel):
    """The results of one row of an experiment's table, and the settings that make the row."""

    model_config = ConfigDict(frozen=True)

    name: str
    predictions: ArtifactRef
    verdicts: ArtifactRef | None = None  # of the judge that the table shows
    training: Training | None = None  # a cell of the grid search
    merge: Merge | None = None  # one of the merge ablation


@stage(version=1)
def compare(
    work: Work,
    experiment: Literal["ablation", "grid_search", "merge_ablation"],
    settings: Settings,
    models: list[ComparedModel],
) -> None:
    """Compare the models of an experiment in a table, as text and as one HTML page."""
    from pipeline_lib.methods.self_improve.report.experiments import (
        Result,
        ablation_comparison,
        grid_comparison,
        merge_comparison,
    )
    from pipeline_lib.report.comparison import comparison_text, render_comparison

    results = [
        Result(
            model.name,
            [work.read(ref, "metrics") for ref in (model.predictions, model.verdicts) if ref],
            model.training,
            model.merge,
        )
        for model in models
    ]
    contents = {
        "ablation": ablation_comparison,
        "grid_search": grid_comparison,
        "merge_ablation": merge_comparison,
    }[experiment](settings.recipe, results)
    (work.attempt.folder / "comparison.html").write_text(render_comparison(contents), encoding="utf-8")
    (work.attempt.folder / "comparison.txt").write_text(comparison_text(contents), encoding="utf-8")
