"""trained model, images without scores -> predictions."""

from collections.abc import Callable
from functools import cache, partial

import pyarrow as pa

from pipeline_lib import schemas
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def predict(work: Work, prompt: Prompt, model: ModelRef, new_images: ArtifactRef, evaluated: ArtifactRef) -> None:
    """Score images that have no score and say why, on the scale of the data that the model was evaluated on (4.3)."""
    from pipeline_lib.device import pick_device
    from pipeline_lib.metrics.evaluation import ANSWERS, answer_images
    from pipeline_lib.predict.new_images import opener
    from pipeline_lib.predict.predictions import new_predictions, to_ask
    from pipeline_lib.progress import Progress
    from pipeline_lib.store.shards import compute_in_shards
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_vlm
    from pipeline_lib.vlm.score_tokens import resolve_score_tokens

    images = work.read(new_images, "new_images")
    asked = to_ask(images)
    progress = Progress(work.label, asked.num_rows)

    @cache  # loaded when the first shard needs it, which may be never
    def ask() -> Callable[[pa.Table], pa.Table]:
        vlm = load_vlm(model, work.store, pick_device(work.runtime.device))
        chat = render_chat(vlm.processor, prompt.text)
        return partial(
            answer_images,
            vlm,
            chat,
            resolve_score_tokens(vlm.processor.tokenizer, chat),
            open_image=opener(model.resize_px),
            max_new_tokens=model.max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    shard_rows = work.runtime.shard_rows
    answers = compute_in_shards(
        work.store, work.address, asked, shard_rows, ANSWERS, lambda part: ask()(part), progress
    )
    table = new_predictions(images, answers, work.read(evaluated, "reference_values"))
    work.write("new_predictions", table, schemas.NEW_PREDICTIONS)
