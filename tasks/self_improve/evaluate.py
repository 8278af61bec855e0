"""model, validation and test images -> predictions, reference values, metrics."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.config.base import Split
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import Evaluation
from pipeline_lib.methods.self_improve.tables import MODEL_ANSWERS, PREDICTIONS, REFERENCE_VALUES
from pipeline_lib.progress import Progress
from pipeline_lib.store import artifact_key
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("whyscore.stage")


# 3: four readings, prediction intervals, intervals over groups
@stage(version=3, gpu=True, in_shards=True)
def evaluate(work: Work, config: Evaluation, inputs: GenerationInputs, splits: tuple[Split, ...], seed: int) -> None:
    """Predict scores and explanations for the images of some splits, and measure the scores (section 4.3)."""
    from pipeline_lib.methods.self_improve.evaluation import evaluate_answers, is_collapsed

    table = work.in_shards(answers, inputs, splits)
    images, bins = (work.read(inputs.images.table, name) for name in ("images", "bins"))
    tables = evaluate_answers(table, images, splits, bins, config, seed)
    if is_collapsed(tables.metrics, config.min_parse_rate):
        log.warning("%s: COLLAPSED, fewer than %.0f %% of its answers parse", work.label, 100 * config.min_parse_rate)
    work.write(PREDICTIONS, tables.predictions)
    work.write(REFERENCE_VALUES, tables.reference_values)
    work.write(METRICS, tables.metrics)


def answers(work: Work, inputs: GenerationInputs, splits: tuple[Split, ...]) -> InShards:
    """The model's answers to every image of some splits."""
    images = work.read(inputs.images.table, "images")
    images = images.filter(pc.is_in(images["split"], pa.array(splits)))
    # Answers depend on the model and the images alone: with other bootstrap settings they stay cached.
    address = f"scratch/answers/{artifact_key('answers', 1, {'inputs': inputs})}/{'-'.join(splits)}"
    open_image = inputs.images.opener(inputs.model.resize_px)
    return ask_about(work, address, images, inputs.prompt, inputs.model, inputs.max_new_tokens, open_image)


def ask_about(
    work: Work,
    address: str,
    images: pa.Table,
    prompt: Prompt,
    model: ModelRef,
    max_new_tokens: int,
    open_image: "Callable[[str, str], Image]",
) -> InShards:
    """The answers of a model to some images, its score distributions among them."""
    from pipeline_lib.methods.self_improve.evaluation import ask_prompt

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        return ask_prompt(
            work.vlm(model),
            prompt,
            part,
            open_image,
            max_new_tokens=max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(address, images, MODEL_ANSWERS, ask)
