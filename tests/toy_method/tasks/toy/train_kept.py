"""kept answers, model -> adapter."""

from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import SFT_LOG
from pipeline_lib.train.job import TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def train_kept(work: Work, job: TrainingJob, kept: ArtifactRef) -> None:
    """Supervised training on the kept answers about two images."""
    train(work, job, {"pairs": work.read(kept, "toy_kept")}, SFT_LOG)
