"""preferences, base -> the reference's log-probabilities."""

import pyarrow as pa

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.pairs import REFERENCE_LOGPS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def compute_preference_logps(
    work: Work, max_length: int, base: ModelRef, images: ImageSet, preferences: ArtifactRef
) -> None:
    """Compute the log-probabilities of all answers under the base: the reference of stage 1."""
    work.write(REFERENCE_LOGPS, work.in_shards(logps, max_length, base, images, preferences))


def logps(work: Work, max_length: int, base: ModelRef, images: ImageSet, preferences: ArtifactRef) -> InShards:
    """The log-probabilities of both answers of every pair."""
    from pipeline_lib.methods.stic.preferences import usable_preferences, with_sizes
    from pipeline_lib.train.pairs import check_lengths
    from pipeline_lib.train.prefix_rows import PAIR
    from pipeline_lib.train.reference import reference_logps
    from pipeline_lib.vlm.chat import render_chat

    pairs = usable_preferences(work.read(preferences, "preferences"))
    check_lengths(pairs, max_length)

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(base)
        return reference_logps(
            vlm,
            render_chat(vlm.processor, "Describe the image."),  # each row has its prompt; the end of an answer is read
            part,
            PAIR,
            images.opener(base.resize_px),
            max_length=max_length,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(work.address, with_sizes(pairs, work.read(images.table, "images")), REFERENCE_LOGPS, ask)
