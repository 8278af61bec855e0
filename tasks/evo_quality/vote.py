"""pairs, model -> votes."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.evo_quality.recipe import Votes
from pipeline_lib.methods.evo_quality.tables import VOTES
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def vote(
    work: Work, config: Votes, model: ModelRef, prompt: str, images: ImageSet, pairs: ArtifactRef, seed: int
) -> None:
    """Ask the model several times which image of each pair is better, in random order, and count its answers."""
    work.write(VOTES, work.in_shards(votes, config, model, prompt, images, pairs, seed))


def votes(
    work: Work, config: Votes, model: ModelRef, prompt: str, images: ImageSet, pairs: ArtifactRef, seed: int
) -> InShards:
    """The votes over every pair."""
    import pyarrow as pa

    from pipeline_lib.methods.evo_quality import votes as counting
    from pipeline_lib.progress import Progress
    from pipeline_lib.vlm.chat import render_chat

    open_image = images.opener(model.resize_px)

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(model)
        return counting.vote(
            vlm,
            render_chat(vlm.processor, prompt, images=2),
            part,
            open_image,
            config,
            seed=seed,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(work.address, work.read(pairs, "pairs"), VOTES, ask)
