"""kept reasons, judge -> adapter."""

from typing import Literal

from pipeline_lib.errors import DataError
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import SFT_LOG
from pipeline_lib.train.job import TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def train_judge(
    work: Work, job: TrainingJob, traces: ArtifactRef, balance: Literal["order_and_kind", "order", "none"]
) -> None:
    """Supervised training on the kept reasons with their verdicts (stage III)."""
    from pipeline_lib.methods.self_judge.traces import balanced

    rows = work.read(traces, "traces")
    if not rows.num_rows:
        raise DataError(
            f"{work.label}: no reason was kept, so there is nothing to train on; the counts of {traces.address} say why"
            " (wrong, inconsistent, unparsable)"
        )
    train(work, job, {"pairs": balanced(rows, balance, str(job.seed))}, SFT_LOG)
