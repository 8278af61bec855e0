"""predictions -> verdicts."""

from pipeline_lib import schemas
from pipeline_lib.recipe import Evaluation
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=2)
def judge(
    work: Work,
    rows: int | None,
    evaluation: Evaluation,
    fitted_judge: ArtifactRef,
    predictions: ArtifactRef,
    seed: int,
) -> None:
    """With the local round-trip judge, rate how well each explanation fits its score, 0 bad to 4 excellent (4.3)."""
    from pipeline_lib.judge.round_trip import judge_predictions, load_judge
    from pipeline_lib.judge.summary import draw_for_judge, judge_metrics

    chosen = draw_for_judge(work.read(predictions, "predictions"), rows, seed)
    verdicts = judge_predictions(load_judge(work.read(fitted_judge, "judge_terms")), chosen)
    work.write("verdicts", verdicts, schemas.VERDICTS)
    work.write("metrics", judge_metrics(verdicts, evaluation, seed), schemas.METRICS)
