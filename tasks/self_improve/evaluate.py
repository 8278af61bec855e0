"""model, validation and test images -> predictions, reference values, metrics."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.config.base import Split
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import Evaluation
from pipeline_lib.methods.self_improve.tables import ANSWERS, PREDICTIONS, REFERENCE_VALUES
from pipeline_lib.progress import Progress
from pipeline_lib.store import artifact_key
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("whyscore.stage")


@stage(version=2, gpu=True, in_shards=True)
def evaluate(
    work: Work,
    config: Evaluation,
    prompt: Prompt,
    model: ModelRef,
    image_set: ImageSet,
    splits: tuple[Split, ...],
    seed: int,
) -> None:
    """Predict scores and explanations for the images of some splits, and measure the scores (section 4.3)."""
    from pipeline_lib.methods.self_improve.evaluation import evaluate_answers, is_collapsed

    table = work.in_shards(answers, prompt, model, image_set, splits)
    tables = evaluate_answers(table, splits, work.read(image_set.table, "bins"), config, seed)
    if is_collapsed(tables.metrics, config.min_parse_rate):
        log.warning("%s: COLLAPSED, fewer than %.0f %% of its answers parse", work.label, 100 * config.min_parse_rate)
    work.write(PREDICTIONS, tables.predictions)
    work.write(REFERENCE_VALUES, tables.reference_values)
    work.write(METRICS, tables.metrics)


def answers(work: Work, prompt: Prompt, model: ModelRef, image_set: ImageSet, splits: tuple[Split, ...]) -> InShards:
    """What the model says about every image of some splits."""
    images = work.read(image_set.table, "images")
    images = images.filter(pc.is_in(images["split"], pa.array(splits)))
    # Answers depend on the model and the photographs alone: other bootstrap settings do not ask the model again.
    asked = artifact_key("answers", 1, {"prompt": prompt, "model": model, "image_set": image_set})
    return ask_about(
        work, f"scratch/answers/{asked}/{'-'.join(splits)}", images, prompt, model, image_set.opener(model.resize_px)
    )


def ask_about(
    work: Work,
    address: str,
    images: pa.Table,
    prompt: Prompt,
    model: ModelRef,
    open_image: "Callable[[str, str], Image]",
) -> InShards:
    """The answers of a model to some images, its score distributions among them."""
    from pipeline_lib.methods.self_improve.evaluation import answer_images
    from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
    from pipeline_lib.vlm.chat import render_chat

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(model)
        chat = render_chat(vlm.processor, prompt.text)
        return answer_images(
            vlm,
            chat,
            resolve_score_tokens(vlm.processor.tokenizer, chat),
            part,
            open_image,
            max_new_tokens=model.max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(address, images, ANSWERS, ask)
