"""images, model -> score pairs."""

from functools import partial

from pipeline_lib import schemas
from pipeline_lib.data.photographs import Photographs
from pipeline_lib.recipe import Generation
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def generate(
    work: Work, config: Generation, prompt: Prompt, model: ModelRef, photographs: Photographs, seed: int, iteration: int
) -> None:
    """Let the model explain the true score (chosen) and a wrong one (rejected) of training images (section 3.1)."""
    from pipeline_lib.device import pick_device
    from pipeline_lib.preference.score_pairs import choose_training_images, generate_score_pairs
    from pipeline_lib.progress import Progress
    from pipeline_lib.store.shards import compute_in_shards
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_vlm

    vlm = load_vlm(model, work.store, pick_device(work.runtime.device))
    images = choose_training_images(
        work.read(photographs.table, "images"), config.fraction, seed, iteration, redraw=config.redraw
    )
    progress = Progress(work.label, images.num_rows)
    pairs = partial(
        generate_score_pairs,
        vlm,
        render_chat(vlm.processor, prompt.text),
        open_image=photographs.opener(model.resize_px),
        min_distance=config.min_distance,
        max_new_tokens=model.max_new_tokens,
        batch_size=work.runtime.generation_batch_size,
        seed=seed,
        iteration=iteration,
        progress=progress,
    )
    shard_rows = work.runtime.shard_rows
    table = compute_in_shards(work.store, work.address, images, shard_rows, schemas.PREFERENCE_PAIRS, pairs, progress)
    work.write("score_pairs", table, schemas.PREFERENCE_PAIRS)
