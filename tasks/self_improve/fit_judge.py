"""the base model's score pairs -> the round-trip judge."""

from pipeline_lib.methods.self_improve.recipe import RoundTripJudge
from pipeline_lib.methods.self_improve.tables import JUDGE_HOLDOUT, JUDGE_TERMS
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def fit_judge(work: Work, config: RoundTripJudge, score_pairs: ArtifactRef, seed: int) -> None:
    """Learn, once for all iterations, to recover a score from an explanation alone; measure it on held-out images."""
    from pipeline_lib.methods.self_improve.round_trip import fit_judge as fit

    fitted = fit(work.read(score_pairs, "score_pairs"), config.holdout_fraction, seed)
    work.write(JUDGE_TERMS, fitted.terms)
    work.write(JUDGE_HOLDOUT, fitted.holdout)
