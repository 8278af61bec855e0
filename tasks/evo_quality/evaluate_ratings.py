"""model, labelled images -> ratings and their figures."""

from pipeline_lib.config.base import Bootstrap, Split
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.tables import RATINGS
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from tasks.evo_quality.rate_images import ask_ratings
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def evaluate_ratings(
    work: Work, config: Bootstrap, rater: Rater, images: ImageSet, split: Split | None, seed: int
) -> None:
    """Rate the images of a labelled data set, of one split or all of them; the figures are called those of `test`."""
    from pipeline_lib.methods.evo_quality.figures import rating_metrics

    ratings = work.in_shards(ratings_of_split, rater, images, split, seed)
    work.write(RATINGS, ratings)
    work.write(METRICS, rating_metrics(ratings, config, "test", seed))


def ratings_of_split(work: Work, rater: Rater, images: ImageSet, split: Split | None, seed: int) -> InShards:
    """The ratings of the images of a split."""
    import pyarrow.compute as pc

    rows = work.read(images.table, "images")
    if split is not None:
        rows = rows.filter(pc.equal(rows["split"], split))
    return ask_ratings(work, rater, images, rows, seed)
