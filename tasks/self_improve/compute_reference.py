"""score pairs, consistency pairs, base -> the reference's log-probabilities."""

import pyarrow as pa

from pipeline_lib.methods.self_improve.inputs import Inputs
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.pairs import REFERENCE_LOGPS
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def compute_reference(
    work: Work, max_length: int, base: Inputs, score_pairs: ArtifactRef, consistency_pairs: ArtifactRef | None
) -> None:
    """Compute the log-probabilities of all answers under the base without adapter: DPO's reference (section 3.2)."""
    table = work.in_shards(logps, max_length, base, score_pairs, consistency_pairs)
    work.write(REFERENCE_LOGPS, table)


def logps(
    work: Work, max_length: int, base: Inputs, score_pairs: ArtifactRef, consistency_pairs: ArtifactRef | None
) -> InShards:
    """The log-probabilities of every answer that can be trained on."""
    from pipeline_lib.methods.self_improve.pairs import PAIR_ANSWERS, answers_of_pairs
    from pipeline_lib.train.reference import reference_logps
    from pipeline_lib.vlm.chat import render_chat

    rows = answers_of_pairs(
        work.read(score_pairs, "score_pairs"),
        work.read(consistency_pairs, "consistency_pairs") if consistency_pairs else None,
        work.read(base.images.table, "images"),
        max_length,
    )
    open_image = base.images.opener(base.model.resize_px)

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(base.model)
        return reference_logps(
            vlm,
            render_chat(vlm.processor, base.prompt.text),
            part,
            PAIR_ANSWERS,
            open_image,
            max_length=max_length,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(work.address, rows, REFERENCE_LOGPS, ask)
