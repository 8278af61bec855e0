"""preferences, their reference, model -> the adapter of stage 1."""

from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import SFT_LOG, TRAINING_LOG
from pipeline_lib.train.job import TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def train_preferences(work: Work, job: TrainingJob, preferences: ArtifactRef, reference: ArtifactRef | None) -> None:
    """Prefer the better description: DPO, less alpha times its log-probability (section 4.1); or SFT on it alone."""
    from pipeline_lib.methods.stic.preferences import usable_preferences

    pairs = usable_preferences(work.read(preferences, "preferences"))
    if reference is None:
        train(work, job, {"pairs": pairs}, SFT_LOG)
    else:
        train(work, job, {"pairs": pairs, "reference": work.read(reference, "reference_logps")}, TRAINING_LOG)
