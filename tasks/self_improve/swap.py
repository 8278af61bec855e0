"""score pairs -> consistency pairs."""

from pipeline_lib.methods.self_improve.recipe import Swap
from pipeline_lib.methods.self_improve.tables import CONSISTENCY_PAIRS
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def swap(work: Work, config: Swap, score_pairs: ArtifactRef, seed: int, iteration: int) -> None:
    """Give rejected explanations the true score, so that only the text can be wrong (section 3.1)."""
    from pipeline_lib.methods.self_improve.swap import make_consistency_pairs

    pairs = work.read(score_pairs, "score_pairs")
    work.write(CONSISTENCY_PAIRS, make_consistency_pairs(pairs, config.fraction, seed, iteration))
