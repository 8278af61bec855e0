"""predictions, model -> faithfulness of the explanations."""

from collections.abc import Callable
from functools import cache, partial

import pyarrow as pa

from pipeline_lib import schemas
from pipeline_lib.data.photographs import Photographs
from pipeline_lib.recipe import Evaluation, Faithfulness
from pipeline_lib.store import ArtifactRef, artifact_key
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def probe_faithfulness(
    work: Work,
    config: Faithfulness,
    evaluation: Evaluation,
    prompt: Prompt,
    model: ModelRef,
    photographs: Photographs,
    fitted_judge: ArtifactRef,
    predictions: ArtifactRef,
    seed: int,
) -> None:
    """Do explanations carry their score, follow their image, and do without naming the number (section 6)?"""
    from pipeline_lib.device import pick_device
    from pipeline_lib.judge.round_trip import load_judge
    from pipeline_lib.metrics.faithfulness import (
        OTHER_EXPLANATIONS,
        draw_probes,
        explain_other_images,
        faithfulness_metrics,
        faithfulness_table,
    )
    from pipeline_lib.progress import Progress
    from pipeline_lib.store.shards import compute_in_shards
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_vlm

    answers = work.read(predictions, "predictions")
    probes = draw_probes(answers, config.rows, seed)
    progress = Progress(work.label, probes.num_rows)

    @cache  # loaded when the first shard needs it, which may be never
    def ask() -> Callable[[pa.Table], pa.Table]:
        vlm = load_vlm(model, work.store, pick_device(work.runtime.device))
        return partial(
            explain_other_images,
            vlm,
            render_chat(vlm.processor, prompt.text),
            open_image=photographs.opener(model.resize_px),
            max_new_tokens=model.max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    # What the model says depends on none of the judge's and the bootstrap's settings: those do not ask it again.
    asked = artifact_key(
        "other_explanations",
        1,
        {"prompt": prompt, "model": model, "photographs": photographs, "config": config, "seed": seed},
    )
    others = compute_in_shards(
        work.store,
        f"other_explanations/{asked}",
        probes,
        work.runtime.shard_rows,
        OTHER_EXPLANATIONS,
        lambda part: ask()(part),
        progress,
    )
    table = faithfulness_table(load_judge(work.read(fitted_judge, "judge_terms")), probes, others)
    work.write("faithfulness", table, schemas.FAITHFULNESS)
    work.write("metrics", faithfulness_metrics(table, answers, evaluation, seed), schemas.METRICS)
