"""answers -> the kept ones."""

from pipeline_lib.methods.toy.tables import KEPT

from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def keep_answers(work: Work, answers: ArtifactRef, longest: bool = False) -> None:
    """Keep the shortest answer to each pair, or for the control the longest."""
    from pipeline_lib.methods.toy.answers import keep_by_length

    work.write(KEPT, keep_by_length(work.read(answers, "toy_answers"), longest=longest))
