"""model, held-out votes -> ratings of their images, and how they agree."""

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.tables import RATINGS
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.metrics import METRICS
from tasks.evo_quality.rate_images import ratings_of_pairs
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def compare_with_votes(
    work: Work, config: Bootstrap, rater: Rater, images: ImageSet, votes: ArtifactRef, seed: int
) -> None:
    """Rate the images of held-out pairs, and count how often the ratings order a pair as its votes do."""
    import pyarrow as pa

    from pipeline_lib.methods.evo_quality.figures import agreement_metrics, rating_metrics

    ratings = work.in_shards(ratings_of_pairs, rater, images, votes, seed)
    agreement = agreement_metrics(ratings, work.read(votes, "votes"), config, seed)
    work.write(RATINGS, ratings)
    work.write(METRICS, pa.concat_tables([agreement, rating_metrics(ratings, config, "val", seed)]))
