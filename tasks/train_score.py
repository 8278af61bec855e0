"""score pairs, their reference, model -> score adapter."""

from pipeline_lib.data.photographs import Photographs
from pipeline_lib.recipe import Training
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt
from tasks.stage import Work, stage
from tasks.train import train


# 2: a pair shares its prefix, which changes the last bits; 3: a short micro-batch weighs as many pairs as it has
@stage(version=3, gpu=True)
def train_score(
    work: Work,
    config: Training,
    prompt: Prompt,
    model: ModelRef,
    photographs: Photographs,
    score_pairs: ArtifactRef,
    reference: ArtifactRef,
    seed: int,
    iteration: int,
) -> None:
    """DPO on the score pairs: prefer the explanation of the true score, with that score (section 3.2)."""
    rate = config.learning_rate
    train(
        work, config, prompt, model, photographs, score_pairs, "score_pairs", rate, seed, iteration,
        reference=reference,
    )  # fmt: skip
