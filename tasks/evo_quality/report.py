"""everything -> the report and the results as text."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.evo_quality.prompt import Prompts
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


class EvaluatedRound(BaseModel):
    """The results of the base (round 0) or of a round's model."""

    model_config = ConfigDict(frozen=True)

    round_number: int
    labelled: dict[str, ArtifactRef]  # ratings by data set, in the recipe's order
    held_out: ArtifactRef  # ratings beside the held-out votes
    votes: ArtifactRef | None = None  # that it was trained on
    training: ArtifactRef | None = None


class Settings(BaseModel):
    """The recipe and its prompts as the report shows them; the transient fields are part of neither report nor key."""

    model_config = ConfigDict(frozen=True)

    recipe: EvoQualityRecipe
    prompts: Prompts

    def key_fields(self) -> dict[str, Any]:
        """Every field that can change a result or a word; of prompts and data their content, not their paths."""
        fields = self.recipe.model_dump(mode="json", exclude={"runtime", "data", "prompts"})
        evaluation, data = self.recipe.evaluation, self.recipe.data
        fields["evaluation"]["labelled"] = [
            {"name": labelled.name, "split": labelled.split, **labelled.key_fields()}
            for labelled in evaluation.labelled
        ]
        fields["evaluation"]["stop"] = evaluation.stop.key_fields() if evaluation.stop else None
        return fields | {"data": data.key_fields(), "prompts": self.prompts.model_dump()}


@stage(version=2)  # 2: a verdict in words
def report(
    work: Work,
    settings: Settings,
    base: ModelRef,
    images: ImageSet,
    held_out: ArtifactRef,
    models: list[EvaluatedRound],
    control: ArtifactRef | None = None,
) -> None:
    """The verdict, one HTML file with the paper's table for this run, curves, votes and pairs; the results as text."""
    from pipeline_lib.methods.evo_quality.report import Results, RoundResults, report_page, results_text
    from pipeline_lib.methods.evo_quality.verdict import run_verdict
    from pipeline_lib.report.page import render_page
    from pipeline_lib.report.verdict import write_verdict

    def results_of(model: EvaluatedRound) -> RoundResults:
        return RoundResults(
            round_number=model.round_number,
            labelled={
                name: (work.read(ref, "ratings"), work.read(ref, "metrics")) for name, ref in model.labelled.items()
            },
            held_out=work.read(model.held_out, "metrics"),
            votes=work.read(model.votes, "votes") if model.votes else None,
            training_log=work.read(model.training, "training_log") if model.training else None,
        )

    results = Results(
        recipe=settings.recipe.model_copy(update={"runtime": type(settings.recipe.runtime)()}),
        model_name=base.name,
        images=work.read(images.table, "images"),
        held_out=work.read(held_out, "votes"),
        rounds=[results_of(model) for model in models],
        controls=work.read(control, "controls") if control else None,
    )
    verdict, folder = run_verdict(results), work.attempt.folder
    page = report_page(results, images.opener(settings.recipe.model.resize_px))._replace(verdict=verdict)
    write_verdict(verdict, folder)
    (folder / "report.html").write_text(render_page(page), encoding="utf-8")
    (folder / "results.txt").write_text(results_text(results), encoding="utf-8")
