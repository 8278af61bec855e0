"""predictions -> verdicts of a judge model."""

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.prompt import Criterion
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.methods.self_improve.rubric import Rubric
from pipeline_lib.methods.self_improve.tables import VERDICTS
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.metrics import METRICS
from tasks.stage import Work, stage


# 2: verdicts name the group of the image; 3: answers in a fence or after a thought are read
@stage(version=3)
def judge_openai(
    work: Work,
    config: OpenAIJudge,
    rows: int | None,
    rubric: Rubric,
    criterion: Criterion,
    bootstrap: Bootstrap,
    predictions: ArtifactRef,
    seed: int,
) -> None:
    """Rate consistency, usefulness and writing with a judge model on an OpenAI-compatible server (section 4.3)."""
    from pipeline_lib.methods.self_improve.judge_metrics import draw_for_judge, judge_metrics
    from pipeline_lib.methods.self_improve.judge_model import ask_judge

    # Test alone, as in the paper: nothing is chosen by these verdicts, and validation would cost as much again.
    chosen = draw_for_judge(work.read(predictions, "predictions"), rows, seed, ("test",))
    verdicts = ask_judge(config, work.runtime.openai, rubric, criterion, chosen, work.store, work.label)
    work.write(VERDICTS, verdicts)
    work.write(METRICS, judge_metrics(verdicts, bootstrap, seed))
