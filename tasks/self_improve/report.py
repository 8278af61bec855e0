"""everything -> the report, the model card and the results table."""

from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.tables import DIFFERENCES
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


class EvaluatedModel(BaseModel):
    """The results of one row of the paper's Table 1."""

    model_config = ConfigDict(frozen=True)

    iteration: int
    kind: Literal["zero-shot", "score", "consistency", "merged"]
    tested: bool  # else it was evaluated on validation alone
    predictions: ArtifactRef
    verdicts: ArtifactRef  # of the round-trip judge
    openai_verdicts: ArtifactRef | None = None
    vlm_verdicts: ArtifactRef | None = None
    faithfulness: ArtifactRef | None = None
    training: ArtifactRef | None = None
    pairs: ArtifactRef | None = None  # that it was trained on


class EvaluatedOther(BaseModel):
    """A model's results on another labelled data set (`evaluation.also`)."""

    model_config = ConfigDict(frozen=True)

    data: str  # name of the data set
    iteration: int
    kind: Literal["zero-shot", "score", "merged"]
    predictions: ArtifactRef


class Settings(BaseModel):
    """The recipe and its prompt as the report shows them; the transient fields are part of neither report nor key."""

    model_config = ConfigDict(frozen=True)

    recipe: SelfImproveRecipe
    prompt: Prompt

    def key_fields(self) -> dict[str, Any]:
        """Every field that can change a result or a word; for the prompt the content of its file, not its path."""
        fields = self.recipe.model_dump(mode="json", exclude={"runtime", "data", "prompt"})
        also = [data.key_fields() for data in self.recipe.evaluation.also]  # without the place of their files
        fields["evaluation"]["also"] = also
        return fields | {"data": self.recipe.data.key_fields(), "prompt": self.prompt.model_dump()}


# 6: a verdict in words, a page that begins with it and with images; figures say their scale
@stage(version=6)
def report(
    work: Work,
    settings: Settings,
    base: ModelRef,
    images: ImageSet,
    fitted_judge: ArtifactRef,
    models: list[EvaluatedModel],
    others: list[EvaluatedOther],
    control: ArtifactRef | None = None,
) -> None:
    """The verdict, one HTML file with the run's Table 1 and Fig. 1, a model card, and the results table as text."""
    from pipeline_lib.methods.self_improve.report.contents import Judged, ModelResults, OtherResults, RunResults
    from pipeline_lib.methods.self_improve.report.differences import differences
    from pipeline_lib.methods.self_improve.report.model_card import model_card
    from pipeline_lib.methods.self_improve.report.page import render_report
    from pipeline_lib.methods.self_improve.report.plain_verdict import plain_verdict
    from pipeline_lib.methods.self_improve.report.text import results_table
    from pipeline_lib.report.verdict import write_verdict

    def judged(verdicts: ArtifactRef) -> Judged:
        return Judged(work.read(verdicts, "verdicts"), work.read(verdicts, "metrics"))

    def results_of(model: EvaluatedModel) -> ModelResults:
        measured = [model.predictions, *([model.faithfulness] if model.faithfulness else [])]
        return ModelResults(
            iteration=model.iteration,
            kind=model.kind,
            predictions=work.read(model.predictions, "predictions"),
            reference_values=work.read(model.predictions, "reference_values"),
            metrics=pa.concat_tables([work.read(ref, "metrics") for ref in measured]),
            judged=judged(model.openai_verdicts or model.verdicts),
            second=judged(model.verdicts) if model.openai_verdicts else None,
            training_log=work.read(model.training, "training_log") if model.training else None,
            pair_metrics=work.read(model.pairs, "metrics") if model.pairs else None,
            seen=Judged(work.read(model.vlm_verdicts, "vlm_verdicts"), work.read(model.vlm_verdicts, "metrics"))
            if model.vlm_verdicts
            else None,
        )

    tested = [results_of(model) for model in models if model.tested]
    changes = differences(tested, settings.recipe.evaluation.bootstrap, settings.recipe.seed)
    work.write(DIFFERENCES, changes)
    results = RunResults(
        recipe=settings.recipe.model_copy(update={"runtime": type(settings.recipe.runtime)()}),
        prompt=settings.prompt,
        model_name=base.name,
        images=work.read(images.table, "images"),
        bins=work.read(images.table, "bins"),
        unreadable_images=work.read(images.table, "unreadable_images"),
        judge_holdout=work.read(fitted_judge, "judge_holdout"),
        models=tested,
        differences=changes,
        others=[
            OtherResults(
                other.data,
                other.iteration,
                other.kind,
                work.read(other.predictions, "other_predictions"),
                work.read(other.predictions, "metrics"),
            )
            for other in others
        ],
        branches=[results_of(model) for model in models if not model.tested],
        control=work.read(control, "control_figures") if control else None,
    )
    folder = work.attempt.folder
    write_verdict(plain_verdict(results), folder)
    page = render_report(results, images.opener(base.resize_px), images.full_size_opener())
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "model_card.md").write_text(model_card(results), encoding="utf-8")
    (folder / "results.txt").write_text(results_table(results), encoding="utf-8")
