"""score pairs, model -> adapter trained on the chosen answers."""

from typing import Literal

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import IterativeTraining
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import SFT_LOG
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.common.train import train
from tasks.stage import Work, stage


@stage(version=2, gpu=True)  # 2: the Qwen families' loss, and all families' log, are means over the tokens of a step
def train_sft(
    work: Work,
    config: IterativeTraining,
    prompt: Prompt,
    model: ModelRef,
    image_set: ImageSet,
    score_pairs: ArtifactRef,
    target: Literal["score", "score_text"],
    seed: int,
    iteration: int,
) -> None:
    """Supervised fine-tuning on the chosen answers, on their score alone or on the whole text (section 5.2)."""
    train(
        work, config, prompt, model, image_set, score_pairs, "score_pairs", config.learning_rate, seed, iteration,
        method="sft", options={"target": target}, log_table=SFT_LOG,
    )  # fmt: skip
