"""answers -> the kept ones."""

from pipeline_lib.methods.toy.tables import KEPT

from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def keep_answers(work: Work, answers: ArtifactRef) -> None:
    """Keep the shortest answer to each pair."""
    from pipeline_lib.methods.toy.answers import keep_shortest

    work.write(KEPT, keep_shortest(work.read(answers, "toy_answers")))
