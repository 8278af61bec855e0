"""score pairs, their reference, model -> score adapter."""

from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import TRAINING_LOG
from pipeline_lib.train.job import TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


# 2: a pair shares its prefix, which changes the last bits; 3: a short micro-batch counts with its number of pairs
@stage(version=3, gpu=True)
def train_score(work: Work, job: TrainingJob, score_pairs: ArtifactRef, reference: ArtifactRef) -> None:
    """DPO on the score pairs: prefer the explanation of the true score, with that score (section 3.2)."""
    from pipeline_lib.methods.self_improve.pairs import usable_pairs

    pairs = usable_pairs(work.read(score_pairs, "score_pairs"), job.lora.max_length)
    tables = {"pairs": pairs, "reference": work.read(reference, "reference_logps")}
    train(work, job, tables, TRAINING_LOG)
