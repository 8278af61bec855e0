"""images, model -> score pairs."""

import pyarrow as pa

from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.recipe import Generation
from pipeline_lib.methods.self_improve.tables import SCORE_PAIRS
from pipeline_lib.progress import Progress
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from tasks.stage import Work, stage


# 2: with the shares of pairs that training leaves out
@stage(version=2, gpu=True, in_shards=True)
def generate(work: Work, config: Generation, inputs: GenerationInputs, seed: int, iteration: int) -> None:
    """Let the model explain the true score (chosen) and a wrong one (rejected) of training images (section 3.1)."""
    from pipeline_lib.methods.self_improve.pairs import pair_metrics

    table = work.in_shards(score_pairs, config, inputs, seed, iteration)
    work.write(SCORE_PAIRS, table)
    work.write(METRICS, pair_metrics(table))


def score_pairs(work: Work, config: Generation, inputs: GenerationInputs, seed: int, iteration: int) -> InShards:
    """Both explanations of every image that is drawn for an iteration."""
    from pipeline_lib.methods.self_improve.score_pairs import (
        choose_training_images,
        generate_score_pairs,
        generate_score_pairs_by_engine,
    )
    from pipeline_lib.vlm.chat import render_chat

    images = choose_training_images(
        work.read(inputs.images.table, "images"), config.fraction, seed, iteration, redraw=config.redraw
    )
    open_image = inputs.images.opener(inputs.model.resize_px)

    def explain(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(inputs.model)
        return generate_score_pairs(
            vlm,
            render_chat(vlm.processor, inputs.prompt.text),
            part,
            open_image,
            min_distance=config.min_distance,
            max_new_tokens=inputs.max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            seed=seed,
            iteration=iteration,
            progress=progress,
        )

    def explain_by_engine(part: pa.Table, progress: Progress) -> pa.Table:
        return generate_score_pairs_by_engine(
            work.engine(inputs.model, inputs.prompt.text, inputs.max_new_tokens),
            part,
            open_image,
            min_distance=config.min_distance,
            seed=seed,
            iteration=iteration,
            progress=progress,
        )

    by = {"transformers": explain, "openai": explain_by_engine}
    return InShards(work.address, images, SCORE_PAIRS, by[config.engine])
