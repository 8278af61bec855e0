"""pairs, model -> the model's own ratings of their images, which the ablation `own_mean` learns."""

import pyarrow as pa

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.tables import RATINGS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def rate_images(work: Work, rater: Rater, images: ImageSet, votes: ArtifactRef, seed: int) -> None:
    """Rate every image of the voted pairs once."""
    work.write(RATINGS, work.in_shards(ratings_of_pairs, rater, images, votes, seed))


def ratings_of_pairs(work: Work, rater: Rater, images: ImageSet, votes: ArtifactRef, seed: int) -> InShards:
    """The ratings of every image of the voted pairs."""
    from pipeline_lib.methods.evo_quality.training import images_of_pairs

    return ask_ratings(work, rater, images, images_of_pairs(work.read(votes, "votes")), seed)


def ask_ratings(work: Work, rater: Rater, images: ImageSet, rows: pa.Table, seed: int) -> InShards:
    """The ratings of some of the images."""
    from pipeline_lib.methods.evo_quality.ratings import rate

    open_image = images.opener(rater.model.resize_px)

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        batch_size = work.runtime.generation_batch_size
        return rate(work.vlm(rater.model), rater, part, open_image, seed=seed, batch_size=batch_size, progress=progress)

    return InShards(work.address, rows, RATINGS, ask)
