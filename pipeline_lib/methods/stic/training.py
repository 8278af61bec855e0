"""The trainings of both stages as jobs (section 4, Algorithms 1 and 2)."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.stic.prompt import Prompts
from pipeline_lib.methods.stic.recipe import Infusion, Training
from pipeline_lib.store import ArtifactRef
from pipeline_lib.train.job import DPO, SFT, TrainingJob
from pipeline_lib.vlm.model_ref import ModelRef


def preferences_job(config: Training, base: ModelRef, images: ImageSet, prompts: Prompts, seed: int) -> TrainingJob:
    """Stage 1: the base itself is the reference."""
    return TrainingJob(
        base=base,
        prompt=prompts.plain[0],  # each row has its own; from this one the form of an answer is read
        images=images,
        loss=SFT() if config.loss == "sft" else DPO(beta=config.beta, chosen_logp_weight=config.alpha),
        lora=config.lora,
        learning_rate=config.learning_rate,
        start=None,
        seed=seed * 1000 + 1,
    )


def infused_job(
    config: Infusion, base: ModelRef, images: ImageSet, prompts: Prompts, stage_1: ArtifactRef, seed: int
) -> TrainingJob:
    """Stage 2, from the adapter of stage 1 or from the base."""
    return TrainingJob(
        base=base,
        prompt=prompts.describe,
        images=images,
        loss=SFT(),
        lora=config.lora,
        learning_rate=config.learning_rate,
        start=stage_1 if config.start_from == "preferences" else None,
        seed=seed * 1000 + 2,
    )
