"""votes -> the votes of a control."""

from typing import Literal

from pipeline_lib.methods.evo_quality.tables import VOTES
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def change_votes(work: Work, votes: ArtifactRef, change: Literal["shuffled", "flipped"], seed: int) -> None:
    """Shuffle the labels among the pairs, from which nothing can be learnt, or say the opposite for each."""
    from pipeline_lib.methods.evo_quality.votes import flip_votes, shuffle_votes

    table = work.read(votes, "votes")
    work.write(VOTES, shuffle_votes(table, seed) if change == "shuffled" else flip_votes(table))
