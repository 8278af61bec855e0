"""images, model -> preferences."""

import pyarrow as pa

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.stic.prompt import Prompts
from pipeline_lib.methods.stic.recipe import Preferences
from pipeline_lib.methods.stic.tables import PREFERENCES
from pipeline_lib.progress import Progress
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def describe_both_ways(
    work: Work,
    config: Preferences,
    prompts: Prompts,
    model: ModelRef,
    images: ImageSet,
    max_new_tokens: int,
    seed: int,
) -> None:
    """Describe each image by the curated prompt (preferred), and by a bad prompt or corrupted (section 4.1)."""
    from pipeline_lib.methods.stic.preferences import preference_metrics

    pairs = work.in_shards(both_ways, config, prompts, model, images, max_new_tokens, seed)
    work.write(PREFERENCES, pairs)
    work.write(METRICS, preference_metrics(pairs))


def both_ways(
    work: Work,
    config: Preferences,
    prompts: Prompts,
    model: ModelRef,
    images: ImageSet,
    max_new_tokens: int,
    seed: int,
) -> InShards:
    """Both descriptions of every image that is drawn."""
    from pipeline_lib.methods.stic import preferences

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        return preferences.describe_both_ways(
            work.vlm(model),
            preferences.draw_ways(part, config, prompts, seed),
            images.opener(model.resize_px),
            config=config,
            prompts=prompts,
            max_new_tokens=max_new_tokens,
            seed=seed,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    chosen = preferences.choose_images(work.read(images.table, "images"), config.images, seed)
    return InShards(work.address, chosen, PREFERENCES, ask)
