"""From a user's table to the image table that every later stage reads."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_lib.data.images import refuse_too_many_unreadable, scan_images, unreadable
from pipeline_lib.data.table import ImageList, too_few_images
from pipeline_lib.errors import DataError
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
    facts = scan_images(image_list, max_megapixels)
    problems = unreadable(image_list, facts)
    refuse_too_many_unreadable(problems, len(facts), max_unreadable_fraction)
    rows = image_list.rows.assign(
        image_sha256=[fact.sha256 for fact in facts],
        width_px=[fact.width_px for fact in facts],
        height_px=[fact.height_px for fact in facts],
    )[[not fact.problem for fact in facts]]
    if too_few := too_few_images(rows["split"], LEAST_IMAGES):
        raise DataError(f"without the {problems.num_rows} unreadable images there are {', '.join(too_few)}")
    scores = rows["score"].to_numpy(np.float64)
    train = (rows["split"] == "train").to_numpy()
    bins = fit_bins(scores[train])
    rows = rows.assign(bin=assign_bins(scores, bins.edges))
    return Discretized(
        images=pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None),
        bins=bins_table(bins, rows["bin"].to_numpy()[train]),
        unreadable=problems,
    )
