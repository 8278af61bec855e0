"""questions, base -> synthetic preference pairs."""

import pyarrow as pa

from pipeline_lib.config.base import Split
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_judge.pairs import InjectPrompt
from pipeline_lib.methods.self_judge.recipe import Pairs
from pipeline_lib.methods.self_judge.tables import SYNTHESIS
from pipeline_lib.progress import Progress
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def synthesize_pairs(
    work: Work,
    config: Pairs,
    inject: InjectPrompt,
    model: ModelRef,
    images: ImageSet,
    split: Split,
    seed: int,
    iteration: int,
) -> None:
    """Answer questions, and make a worse answer to each: with injected errors, or one with fewer votes (stage I)."""
    from pipeline_lib.methods.self_judge.pairs import synthesis_metrics

    table = work.in_shards(synthesis, config, inject, model, images, split, seed, iteration)
    work.write(SYNTHESIS, table)
    work.write(METRICS, synthesis_metrics(table, split))


def synthesis(
    work: Work,
    config: Pairs,
    inject: InjectPrompt,
    model: ModelRef,
    images: ImageSet,
    split: Split,
    seed: int,
    iteration: int,
) -> InShards:
    """A pair, or why there is none, for every question that is drawn."""
    from pipeline_lib.methods.self_judge.pairs import draw_prompts, synthesize

    prompts = draw_prompts(work.read(images.table, "multimodal_prompts"), split, config, f"{seed}:{iteration}")

    def make(part: pa.Table, progress: Progress) -> pa.Table:
        return synthesize(
            work.vlm(model),
            part,
            images.opener(model.resize_px),
            config,
            inject,
            batch_size=work.runtime.generation_batch_size,
            seed=seed,
            iteration=iteration,
            progress=progress,
        )

    return InShards(work.address, prompts, SYNTHESIS, make)
