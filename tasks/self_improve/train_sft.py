"""score pairs, model -> adapter trained on the chosen answers."""

from typing import Literal

from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import SFT_LOG
from pipeline_lib.train.job import TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


# 2: in every family the mean over a step's tokens
@stage(version=2, gpu=True)
def train_sft(work: Work, job: TrainingJob, score_pairs: ArtifactRef, target: Literal["score", "score_text"]) -> None:
    """Supervised fine-tuning on the chosen answers, on their score alone or on the whole text (section 5.2)."""
    from pipeline_lib.methods.self_improve.pairs import score_parts, usable_pairs

    pairs = usable_pairs(work.read(score_pairs, "score_pairs"), job.lora.max_length)
    train(work, job, {"pairs": score_parts(pairs) if target == "score" else pairs}, SFT_LOG)
