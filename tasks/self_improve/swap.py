"""score pairs -> consistency pairs."""

from pipeline_lib.methods.self_improve.recipe import Swap
from pipeline_lib.methods.self_improve.tables import CONSISTENCY_PAIRS
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.metrics import METRICS
from tasks.stage import Work, stage


# 2: with the shares of pairs that training leaves out
@stage(version=2)
def swap(work: Work, config: Swap, score_pairs: ArtifactRef, seed: int, iteration: int) -> None:
    """Give rejected explanations the true score, so that only the text can be wrong (section 3.1)."""
    from pipeline_lib.methods.self_improve.pairs import pair_metrics
    from pipeline_lib.methods.self_improve.swap import make_consistency_pairs

    pairs = make_consistency_pairs(work.read(score_pairs, "score_pairs"), config.fraction, seed, iteration)
    work.write(CONSISTENCY_PAIRS, pairs)
    work.write(METRICS, pair_metrics(pairs))
