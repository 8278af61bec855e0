"""predictions, images -> verdicts of a judge that sees the image."""

import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.judges.vlm_judge import JudgePrompt
from pipeline_lib.methods.self_improve.prompt import Criterion
from pipeline_lib.methods.self_improve.recipe import VlmJudge
from pipeline_lib.methods.self_improve.tables import VLM_VERDICTS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def judge_vlm(
    work: Work,
    config: VlmJudge,
    prompt: JudgePrompt,
    judge: ModelRef,
    images: ImageSet,
    criterion: Criterion,
    bootstrap: Bootstrap,
    fitted_judge: ArtifactRef,
    predictions: ArtifactRef,
    seed: int,
) -> None:
    """Compare explanations with others of their score, of other scores and with fixed texts, the image before it."""
    import logging

    from pipeline_lib.methods.self_improve.round_trip import load_judge
    from pipeline_lib.methods.self_improve.vlm_verdicts import is_fooled, vlm_judge_metrics

    table = work.in_shards(verdicts, config, prompt, judge, images, criterion, fitted_judge, predictions, seed)
    round_trip = load_judge(work.read(fitted_judge, "judge_terms"))
    metrics = vlm_judge_metrics(table, round_trip, bootstrap, seed)
    for control in is_fooled(metrics):
        logging.getLogger("whyscore.judge").warning("%s: the judge is FOOLED by %s", work.label, control)
    work.write(VLM_VERDICTS, table)
    work.write(METRICS, metrics)


def verdicts(
    work: Work,
    config: VlmJudge,
    prompt: JudgePrompt,
    judge: ModelRef,
    images: ImageSet,
    criterion: Criterion,
    fitted_judge: ArtifactRef,
    predictions: ArtifactRef,
    seed: int,
) -> InShards:
    """The judge's verdict on every comparison."""
    import pyarrow.compute as pc

    from pipeline_lib.methods.self_improve.judge_metrics import draw_for_judge
    from pipeline_lib.methods.self_improve.round_trip import load_judge
    from pipeline_lib.methods.self_improve.vlm_verdicts import compare, comparisons

    predicted = work.read(predictions, "predictions")
    pool = predicted.filter(pc.equal(predicted["split"], "val"))["explanation"].drop_null().to_pylist()
    rows = comparisons(
        draw_for_judge(predicted, config.rows, seed, ("test",)),
        work.read(images.table, "images"),
        load_judge(work.read(fitted_judge, "judge_terms")),
        criterion,
        pool,
        seed,
    )

    def make(part: pa.Table, progress: Progress) -> pa.Table:
        made = compare(
            work.vlm(judge),
            prompt,
            part,
            images.opener(judge.resize_px),
            max_new_tokens=config.max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=Progress(work.label, 2 * part.num_rows, "verdicts"),
        )
        progress.advance(part.num_rows)
        return made

    return InShards(work.address, rows, VLM_VERDICTS, make)
