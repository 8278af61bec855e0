"""runs of one recipe with several seeds -> their comparison as tables, a page and a text."""

from pydantic import BaseModel, ConfigDict

from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


class SeedModel(BaseModel):
    """A model of one seed's run: the artifacts that hold its figures, by their role, e.g. `predictions`, `verdicts`."""

    model_config = ConfigDict(frozen=True)

    seed: int
    model: str  # zero-shot, final or control
    measured: dict[str, ArtifactRef]


@stage(version=1)
def compare_seeds(work: Work, name: str, models: list[SeedModel]) -> None:
    """Mean and standard deviation over seeds, and paired tests, of every figure on test."""
    import pyarrow as pa

    from pipeline_lib.report.page import render_page
    from pipeline_lib.report.seeds import SEED_FIGURES, SEED_SUMMARY, seeds_page, seeds_text, summarize

    rows = [
        {"seed": found.seed, "model": found.model, "source": source}
        | {column: row[column] for column in ("metric", "value", "low", "high", "rows")}
        for found in models
        for source, ref in found.measured.items()
        for row in work.read(ref, "metrics").to_pylist()
        if row["split"] == "test"
    ]
    figures = pa.Table.from_pylist(rows, schema=SEED_FIGURES.schema)
    summary = summarize(figures)
    work.write(SEED_FIGURES, figures)
    work.write(SEED_SUMMARY, summary)
    folder = work.attempt.folder
    (folder / "report.html").write_text(render_page(seeds_page(name, figures, summary)), encoding="utf-8")
    (folder / "results.txt").write_text(seeds_text(name, figures, summary), encoding="utf-8")
