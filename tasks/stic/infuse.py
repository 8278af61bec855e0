"""instructions, descriptions -> infused instructions."""

from pipeline_lib.methods.stic.tables import INFUSED
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1)
def infuse(
    work: Work, infused: str, base: ModelRef, questions: ArtifactRef, descriptions: ArtifactRef, put_before: bool
) -> None:
    """Put the description of an image before each question about it; answers stay as they are (section 4.2)."""
    from pipeline_lib.methods.stic import answers
    from pipeline_lib.vlm.load import load_processor

    tables = work.read(questions, "questions"), work.read(descriptions, "descriptions")
    work.write(INFUSED, answers.infuse(load_processor(base), *tables, infused, describe=put_before))
