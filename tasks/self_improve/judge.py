"""predictions -> verdicts."""

import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.tables import VERDICTS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from tasks.stage import Work, stage

TEXTS_AN_IMAGE = 16
"""A shard has so many times the rows of a shard of images, because thousands of rows a second are judged."""


# 3: chance of Cons; intervals over groups
@stage(version=3, in_shards=True)
def judge(
    work: Work,
    rows: int | None,
    bootstrap: Bootstrap,
    fitted_judge: ArtifactRef,
    predictions: ArtifactRef,
    seed: int,
) -> None:
    """Rate how well each explanation fits its score, 0 bad to 4 excellent, with the local round-trip judge (4.3)."""
    from pipeline_lib.methods.self_improve.judge_metrics import gaming_metrics, judge_metrics
    from pipeline_lib.methods.self_improve.round_trip import load_judge

    table = work.in_shards(verdicts, rows, fitted_judge, predictions, seed)
    work.write(VERDICTS, table)
    gamed = gaming_metrics(
        load_judge(work.read(fitted_judge, "judge_terms")), table, work.read(predictions, "predictions")
    )
    work.write(METRICS, pa.concat_tables([judge_metrics(table, bootstrap, seed), gamed]))


def verdicts(work: Work, rows: int | None, fitted_judge: ArtifactRef, predictions: ArtifactRef, seed: int) -> InShards:
    """The local judge's verdict on every explanation that is drawn for it."""
    from pipeline_lib.methods.self_improve.judge_metrics import draw_for_judge
    from pipeline_lib.methods.self_improve.round_trip import judge_predictions, load_judge

    def rate(part: pa.Table, progress: Progress) -> pa.Table:
        rated = judge_predictions(load_judge(work.read(fitted_judge, "judge_terms")), part)
        progress.advance(part.num_rows)
        return rated

    chosen = draw_for_judge(work.read(predictions, "predictions"), rows, seed)
    return InShards(work.address, chosen, VERDICTS, rate, TEXTS_AN_IMAGE)
