"""consistency pairs, their reference, model -> consistency adapter."""

from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import TRAINING_LOG
from pipeline_lib.train.job import TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


# 2: a pair shares its prefix, which changes the last bits; 3: a short micro-batch counts with its number of pairs
# 4: without pairs of two equal answers
@stage(version=4, gpu=True)
def train_consistency(work: Work, job: TrainingJob, consistency_pairs: ArtifactRef, reference: ArtifactRef) -> None:
    """DPO on the consistency pairs: with the score fixed, prefer the explanation written for it (section 3.2)."""
    from pipeline_lib.methods.self_improve.pairs import distinct_pairs, usable_pairs

    pairs = usable_pairs(work.read(consistency_pairs, "consistency_pairs"), job.lora.max_length)
    tables = {"pairs": distinct_pairs(pairs), "reference": work.read(reference, "reference_logps")}
    train(work, job, tables, TRAINING_LOG)
