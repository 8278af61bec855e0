"""consistency pairs, their reference, model -> consistency adapter."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import Consistency, IterativeTraining
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.common.train import train
from tasks.stage import Work, stage


# 2: a pair shares its prefix, which changes the last bits; 3: a short micro-batch weighs as many pairs as it has
@stage(version=3, gpu=True)
def train_consistency(
    work: Work,
    config: IterativeTraining,
    consistency: Consistency,
    prompt: Prompt,
    model: ModelRef,
    image_set: ImageSet,
    consistency_pairs: ArtifactRef,
    reference: ArtifactRef,
    seed: int,
    iteration: int,
) -> None:
    """DPO on the consistency pairs: with the score fixed, prefer the explanation written for it (section 3.2)."""
    rate = config.learning_rate * consistency.learning_rate_factor
    train(
        work, config, prompt, model, image_set, consistency_pairs, "consistency_pairs", rate, seed, iteration,
        reference=reference,
    )  # fmt: skip
