"""anchors -> verdicts of a judge model on them."""

import pyarrow as pa

from pipeline_lib.methods.self_improve.prompt import Criterion
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.methods.self_improve.rubric import Rubric
from pipeline_lib.methods.self_improve.tables import ANCHOR_VERDICTS
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


# 2: verdicts name the group of the image; 3: answers in a fence or after a thought are read
@stage(version=3)
def judge_anchors(work: Work, config: OpenAIJudge, rubric: Rubric, criterion: Criterion, anchors: ArtifactRef) -> None:
    """Rate the anchors of every model of a run with any judge model."""
    from pipeline_lib.methods.self_improve.judge_model import ask_judge

    kept = work.read(anchors, "anchors")
    asked = kept.append_column("split", pa.array(["test"] * kept.num_rows))
    verdicts = ask_judge(config, work.runtime.openai, rubric, criterion, asked, work.store, work.label)
    for column in ("iteration", "kind"):
        verdicts = verdicts.append_column(column, kept[column])
    work.write(ANCHOR_VERDICTS, verdicts)
