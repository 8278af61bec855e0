"""model, validation and test images -> predictions, reference values, metrics."""

import logging
from collections.abc import Callable
from functools import cache, partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib import schemas
from pipeline_lib.data.photographs import Photographs
from pipeline_lib.recipe import Evaluation, Split
from pipeline_lib.store import artifact_key
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt
from tasks.stage import Work, stage

log = logging.getLogger("whyscore.stage")


@stage(version=2, gpu=True)
def evaluate(
    work: Work,
    config: Evaluation,
    prompt: Prompt,
    model: ModelRef,
    photographs: Photographs,
    splits: tuple[Split, ...],
    seed: int,
) -> None:
    """Predict scores and explanations for the images of some splits, and measure the scores (section 4.3)."""
    from pipeline_lib.device import pick_device
    from pipeline_lib.metrics.evaluation import ANSWERS, answer_images, evaluate_answers, is_collapsed
    from pipeline_lib.progress import Progress
    from pipeline_lib.store.shards import compute_in_shards
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_vlm
    from pipeline_lib.vlm.score_tokens import resolve_score_tokens

    images = work.read(photographs.table, "images")
    images = images.filter(pc.is_in(images["split"], pa.array(splits)))
    progress = Progress(work.label, images.num_rows)

    @cache  # loaded when the first shard needs it, which may be never
    def ask() -> Callable[[pa.Table], pa.Table]:
        vlm = load_vlm(model, work.store, pick_device(work.runtime.device))
        chat = render_chat(vlm.processor, prompt.text)
        return partial(
            answer_images,
            vlm,
            chat,
            resolve_score_tokens(vlm.processor.tokenizer, chat),
            open_image=photographs.opener(model.resize_px),
            max_new_tokens=model.max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    # Answers depend on the model and the photographs alone: other bootstrap settings do not ask the model again.
    asked = artifact_key("answers", 1, {"prompt": prompt, "model": model, "photographs": photographs})
    table = compute_in_shards(
        work.store,
        f"answers/{asked}/{'-'.join(splits)}",
        images,
        work.runtime.shard_rows,
        ANSWERS,
        lambda part: ask()(part),
        progress,
    )
    tables = evaluate_answers(table, splits, work.read(photographs.table, "bins"), config, seed)
    if is_collapsed(tables.metrics, config.min_parse_rate):
        log.warning("%s: COLLAPSED, fewer than %.0f %% of its answers parse", work.label, 100 * config.min_parse_rate)
    work.write("predictions", tables.predictions, schemas.PREDICTIONS)
    work.write("reference_values", tables.reference_values, schemas.REFERENCE_VALUES)
    work.write("metrics", tables.metrics, schemas.METRICS)
