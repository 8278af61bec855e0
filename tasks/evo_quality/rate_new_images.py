"""trained model, images without labels -> ratings."""

from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.tables import NEW_RATINGS, RATINGS
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from tasks.stage import Work, stage


@stage(version=2, gpu=True, in_shards=True)
def rate_new_images(work: Work, rater: Rater, new_images: ArtifactRef, seed: int) -> None:
    """Rate images of a user; one that cannot be read has its problem instead of a rating."""
    from pipeline_lib.methods.evo_quality.ratings import new_ratings

    given = work.in_shards(ratings, rater, new_images, seed)
    work.write(NEW_RATINGS, new_ratings(work.read(new_images, "new_images"), given))


def ratings(work: Work, rater: Rater, new_images: ArtifactRef, seed: int) -> InShards:
    """The ratings of every new image that can be read, each content once."""
    import pyarrow as pa

    from pipeline_lib.methods.evo_quality.ratings import rate, to_rate
    from pipeline_lib.progress import Progress
    from pipeline_lib.use.new_images import opener

    open_image = opener(rater.model.resize_px)

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        batch_size = work.runtime.generation_batch_size
        return rate(
            work.vlm(rater.model),
            rater,
            part,
            open_image,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            drawn_by="image_sha256",  # an image gets the same rating wherever it lies
        )

    return InShards(work.address, to_rate(work.read(new_images, "new_images")), RATINGS, ask)
