"""images + scores -> images with bins."""

from pipeline_lib.config.base import Data
from pipeline_lib.methods.self_improve.tables import BINS, IMAGES
from pipeline_lib.tables.images import UNREADABLE_IMAGES
from tasks.stage import Work, stage


@stage(version=2)
def discretize(work: Work, data: Data, seed: int, fingerprint: str) -> None:
    """Check every image and give it its bin 0..9 from the quantiles of the training scores (section 4.1)."""
    from pipeline_lib.data.table import read_image_list
    from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES
    from pipeline_lib.methods.self_improve.discretize import discretize_scores

    images = read_image_list(data, seed, LEAST_IMAGES)
    tables = discretize_scores(images, data.max_unreadable_fraction, data.max_megapixels)
    work.write(IMAGES, tables.images, extra_columns=True)
    work.write(BINS, tables.bins)
    work.write(UNREADABLE_IMAGES, tables.unreadable)
