"""infused instructions, model -> the adapter of stage 2."""

from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import SFT_LOG
from pipeline_lib.train.job import TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def train_infused(work: Work, job: TrainingJob, infused: ArtifactRef) -> None:
    """Supervised training on questions behind a description; the loss is on the answers alone (section 4.2)."""
    train(work, job, {"pairs": work.read(infused, "infused")}, SFT_LOG)
