"""predictions -> verdicts."""

from pipeline_lib import schemas
from pipeline_lib.recipe import Evaluation, Judge
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def judge(
    work: Work, config: Judge, evaluation: Evaluation, fitted_judge: ArtifactRef, predictions: ArtifactRef, seed: int
) -> None:
    """Rate how well each explanation fits the score it is said to justify, 0 bad to 4 excellent (section 4.3)."""
    from pipeline_lib.judge.round_trip import judge_predictions, load_judge
    from pipeline_lib.judge.summary import cons_metrics, draw_for_judge

    chosen = draw_for_judge(work.read(predictions, "predictions"), config.rows, seed)
    verdicts = judge_predictions(load_judge(work.read(fitted_judge, "judge_terms")), chosen)
    work.write("verdicts", verdicts, schemas.VERDICTS)
    work.write("metrics", cons_metrics(verdicts, evaluation, seed), schemas.METRICS)
