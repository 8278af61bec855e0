"""score pairs, their reference, model -> score adapter."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import IterativeTraining
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.common.train import train
from tasks.stage import Work, stage


# 2: a pair shares its prefix, which changes the last bits; 3: a short micro-batch weighs as many pairs as it has
@stage(version=3, gpu=True)
def train_score(
    work: Work,
    config: IterativeTraining,
    prompt: Prompt,
    model: ModelRef,
    image_set: ImageSet,
    score_pairs: ArtifactRef,
    reference: ArtifactRef,
    seed: int,
    iteration: int,
) -> None:
    """DPO on the score pairs: prefer the explanation of the true score, with that score (section 3.2)."""
    rate = config.learning_rate
    train(
        work, config, prompt, model, image_set, score_pairs, "score_pairs", rate, seed, iteration,
        reference=reference,
    )  # fmt: skip
