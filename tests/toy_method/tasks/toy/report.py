"""everything -> the report and a text."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def report(
    work: Work,
    name: str,
    question: str,
    side_px: int,
    images: ImageSet,
    answers: ArtifactRef,
    kept: ArtifactRef,
    training: ArtifactRef,
) -> None:
    """One page and one text."""
    from pipeline_lib.methods.toy.report import toy_page

    from pipeline_lib.report.page import render_page

    tables = work.read(answers, "toy_answers"), work.read(kept, "toy_kept"), work.read(training, "training_log")
    page = toy_page(name, question, *tables, images.opener(side_px))
    folder = work.attempt.folder
    (folder / "report.html").write_text(render_page(page), encoding="utf-8")
    (folder / "results.txt").write_text(f"{page.lead}\n\nThe shortest answer to each pair is kept.\n", encoding="utf-8")
