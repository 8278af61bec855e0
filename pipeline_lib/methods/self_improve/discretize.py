"""Make the image table of all later stages from a user's table."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_lib.data.read_images import read_images
from pipeline_lib.data.table import ImageList
from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES, assign_bins, bins_table, fit_bins


class Discretized(NamedTuple):
    """Tables in the schemas `IMAGES`, `BINS` and `UNREADABLE_IMAGES`."""

    images: pa.Table
    bins: pa.Table
    unreadable: pa.Table


def discretize_scores(image_list: ImageList, max_unreadable_fraction: float, max_megapixels: float) -> Discretized:
    """Read every image once and give each readable one its bin 0..9 (section 4.1).

    The bin edges come from readable *training* images alone; validation and test use the same edges. Raises `DataError`
    when more images are unreadable than allowed, or a split has too few left.
    """
    read = read_images(image_list, max_unreadable_fraction, max_megapixels, LEAST_IMAGES)
    scores = read.rows["score"].to_numpy(np.float64)
    train = (read.rows["split"] == "train").to_numpy()
    bins = fit_bins(scores[train])
    read = read._replace(rows=read.rows.assign(bin=assign_bins(scores, bins.edges)))
    return Discretized(
        images=read.images, bins=bins_table(bins, read.rows["bin"].to_numpy()[train]), unreadable=read.unreadable
    )
