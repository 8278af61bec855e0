"""pairs, judge -> verdicts in both orders, metrics."""

from typing import Literal

import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.judges.vlm_judge import JudgePrompt
from pipeline_lib.methods.self_judge.tables import JUDGEMENTS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, artifact_key
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage

Source = Literal["answer_pairs", "synthesis"]
"""The table that holds the pairs: known ones (split `test` in the figures), or held-out synthetic ones (`val`)."""


@stage(version=1, gpu=True, in_shards=True)
def evaluate_judge(
    work: Work,
    bootstrap: Bootstrap,
    prompt: JudgePrompt,
    max_new_tokens: int,
    judge: ModelRef,
    images: ImageSet,
    pairs: ArtifactRef,
    source: Source,
    seed: int,
) -> None:
    """Judge each pair in both orders, greedily, and measure the verdicts."""
    from pipeline_lib.methods.self_judge.evaluation import judgement_metrics

    table = work.in_shards(judgements, prompt, max_new_tokens, judge, images, pairs, source)
    work.write(JUDGEMENTS, table)
    work.write(METRICS, judgement_metrics(table, "test" if source == "answer_pairs" else "val", bootstrap, seed))


def judgements(
    work: Work,
    prompt: JudgePrompt,
    max_new_tokens: int,
    judge: ModelRef,
    images: ImageSet,
    pairs: ArtifactRef,
    source: Source,
) -> InShards:
    """The judge's answers about every pair."""
    from pipeline_lib.methods.self_judge.evaluation import held_out_pairs, judge_pairs

    table = work.read(pairs, source)
    if source == "synthesis":
        table = held_out_pairs(table)

    def make(part: pa.Table, progress: Progress) -> pa.Table:
        made = judge_pairs(
            work.vlm(judge),
            prompt,
            part,
            images.opener(judge.resize_px),
            max_new_tokens=max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=Progress(work.label, 2 * part.num_rows, "verdicts"),
        )
        progress.advance(part.num_rows)
        return made

    # Verdicts depend on judge, prompt and pairs alone: with other bootstrap settings they stay cached.
    asked = {"prompt": prompt, "max_new_tokens": max_new_tokens, "judge": judge, "images": images, "pairs": pairs}
    return InShards(f"scratch/judgements/{artifact_key('judgements', 1, asked)}", table, JUDGEMENTS, make)
