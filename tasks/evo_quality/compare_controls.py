"""models of a run and of its controls -> their comparison as a table, a page and a text."""

from pydantic import BaseModel, ConfigDict

from tasks.evo_quality.report import EvaluatedRound, Settings
from tasks.stage import Work, stage


class Control(BaseModel):
    """The models that learnt other labels."""

    model_config = ConfigDict(frozen=True)

    labels: str  # shuffled or flipped
    models: list[EvaluatedRound]  # without the base


@stage(version=1)
def compare_controls(work: Work, settings: Settings, models: list[EvaluatedRound], controls: list[Control]) -> None:
    """What the run and its controls gained over the base, on the main labelled data set."""
    from pipeline_lib.methods.evo_quality.controls import CONTROLS, control_figures, control_grid, gain_sentence
    from pipeline_lib.report.page import Grid, Page, Paragraph, Section, render_page
    from pipeline_lib.report.text_table import text_table

    recipe = settings.recipe
    main = recipe.evaluation.labelled[0].name
    every = [("own", model) for model in models] + [(one.labels, model) for one in controls for model in one.models]
    found = {}
    for labels, model in every:
        metrics = {row["metric"]: row["value"] for row in work.read(model.labelled[main], "metrics").to_pylist()}
        found[labels, model.round_number] = work.read(model.labelled[main], "ratings"), metrics
    table = control_figures(found, recipe.evaluation.bootstrap, recipe.seed)
    work.write(CONTROLS, table)
    headings, rows = control_grid(table)
    grid = Grid(f"SRCC on {main}", headings, rows)
    sections = [Section("Own, shuffled and flipped votes", [Paragraph(gain_sentence(table)), grid])]
    page = Page(f"{recipe.name} beside its controls", recipe.method, gain_sentence(table), sections)
    folder = work.attempt.folder
    (folder / "report.html").write_text(render_page(page), encoding="utf-8")
    text = f"{page.title}\n\n{text_table(headings, rows)}\n\n{gain_sentence(table)}\n"
    (folder / "results.txt").write_text(text, encoding="utf-8")
