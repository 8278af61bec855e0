"""everything -> the report, the differences and the results table."""

from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.stic.prompt import Prompts
from pipeline_lib.methods.stic.recipe import SticRecipe
from pipeline_lib.methods.stic.tables import DIFFERENCES
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage

Kind = Literal["base", "preferences", "infused"]


class EvaluatedModel(BaseModel):
    """The results of one model, and its training."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    predictions: ArtifactRef
    training: ArtifactRef | None = None


class Settings(BaseModel):
    """The recipe and its prompts as the report shows them; the transient fields are part of neither report nor key."""

    model_config = ConfigDict(frozen=True)

    recipe: SticRecipe
    prompts: Prompts

    def key_fields(self) -> dict[str, Any]:
        """Every field that can change a result or a word, without the place of files."""
        fields = self.recipe.model_dump(
            mode="json", exclude={"runtime", "data", "prompts", "instructions", "questions"}
        )
        data = {name: getattr(self.recipe, name).key_fields() for name in ("data", "instructions", "questions")}
        return fields | data | {"prompts": self.prompts.model_dump()}


@stage(version=2)  # 2: a verdict in words
def report(
    work: Work,
    settings: Settings,
    base: ModelRef,
    images: ImageSet,
    questions: ImageSet,
    preferences: ArtifactRef,
    infused: ArtifactRef,
    models: list[EvaluatedModel],
    control: EvaluatedModel | None = None,
) -> None:
    """One HTML file with the paper's table for this run, what was learnt and how, examples; the table as text."""
    from pipeline_lib.methods.stic.figures import Model, differences
    from pipeline_lib.methods.stic.report import Results, report_page, results_text
    from pipeline_lib.methods.stic.verdict import run_verdict
    from pipeline_lib.report.page import render_page
    from pipeline_lib.report.verdict import write_verdict

    def model_of(found: EvaluatedModel, name: str) -> Model:
        tables = (work.read(found.predictions, table) for table in ("stic_predictions", "checked_descriptions"))
        return Model(name, *tables)

    named = [*zip(models, NAMES.values(), strict=True), *([(control, "control")] if control else [])]
    tables = [model_of(found, name) for found, name in named]
    first, *later = tables
    pairs = [(first, model) for model in later] + ([(later[0], later[1])] if len(later) > 1 else [])
    if control:
        pairs.append((later[1], tables[-1]))
    changes = differences(pairs, settings.recipe.evaluation.bootstrap, settings.recipe.seed)
    work.write(DIFFERENCES, changes)
    results = Results(
        recipe=settings.recipe.model_copy(update={"runtime": type(settings.recipe.runtime)()}),
        prompts=settings.prompts,
        model_name=base.name,
        models=tables,
        metrics=[work.read(found.predictions, "metrics") for found, _ in named],
        differences=changes,
        preferences=work.read(preferences, "preferences"),
        preference_metrics=work.read(preferences, "metrics"),
        infused=work.read(infused, "infused"),
        logs=[work.read(found.training, "training_log") for found in models if found.training],
        unreadable=pa.concat_tables(work.read(found.table, "unreadable_images") for found in (images, questions)),
    )
    folder = work.attempt.folder
    verdict = run_verdict(results)
    write_verdict(verdict, folder)
    page = report_page(results, images.opener(base.resize_px), questions.opener(base.resize_px))
    page = page._replace(verdict=verdict)
    (folder / "report.html").write_text(render_page(page), encoding="utf-8")
    (folder / "results.txt").write_text(results_text(results), encoding="utf-8")


NAMES: dict[Kind, str] = {"base": "base", "preferences": "stage 1", "infused": "stage 2"}
"""What the report calls the models."""
