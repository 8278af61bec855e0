"""The training of an iteration as a job (stage III)."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.judges.vlm_judge import JudgePrompt
from pipeline_lib.methods.self_judge.recipe import Training
from pipeline_lib.store import ArtifactRef
from pipeline_lib.train.job import SFT, TrainingJob
from pipeline_lib.vlm.model_ref import ModelRef


def sft_job(
    config: Training, judge: ModelRef, prompt: JudgePrompt, images: ImageSet, seed: int, iteration: int
) -> TrainingJob:
    """Supervised training of the judge of the previous iteration; each row has a prompt of its own."""
    start: ArtifactRef | None = judge.adapter if config.start_from == "previous" else None
    return TrainingJob(
        base=judge.bare(),
        prompt=prompt.text,
        images=images,
        loss=SFT(),
        lora=config.lora,
        learning_rate=config.learning_rate * config.decay_per_iteration ** (iteration - 1),
        start=start,
        seed=seed * 1000 + iteration,
    )
