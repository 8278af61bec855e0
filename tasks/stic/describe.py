"""images, model -> descriptions."""

import pyarrow as pa

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.stic.tables import DESCRIPTIONS
from pipeline_lib.progress import Progress
from pipeline_lib.store.shards import InShards
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def describe(
    work: Work, prompt: str, temperature: float, model: ModelRef, images: ImageSet, max_new_tokens: int, seed: int
) -> None:
    """Let the model describe each image once, to put before the questions about it (section 4.2)."""
    work.write(DESCRIPTIONS, work.in_shards(descriptions, prompt, temperature, model, images, max_new_tokens, seed))


def descriptions(
    work: Work, prompt: str, temperature: float, model: ModelRef, images: ImageSet, max_new_tokens: int, seed: int
) -> InShards:
    """The description of every image."""
    from pipeline_lib.methods.stic.answers import describe_images

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        return describe_images(
            work.vlm(model),
            prompt,
            part,
            images.opener(model.resize_px),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(work.address, work.read(images.table, "images"), DESCRIPTIONS, ask)
