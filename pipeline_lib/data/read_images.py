"""Read all images of a checked table, for every method's first stage."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from pipeline_lib.config.base import Split
from pipeline_lib.data.images import refuse_too_many_unreadable, scan_images, unreadable
from pipeline_lib.data.table import NO_LIMIT, ImageList, too_few_images
from pipeline_lib.errors import DataError


class ReadImages(NamedTuple):
    """The rows of the readable images with `image_sha256`, `width_px`, `height_px`; and `UNREADABLE_IMAGES`."""

    rows: pd.DataFrame
    unreadable: pa.Table

    @property
    def images(self) -> pa.Table:
        """The rows as an Arrow table."""
        return pa.Table.from_pandas(self.rows, preserve_index=False).replace_schema_metadata(None)


def read_images(
    image_list: ImageList,
    max_unreadable_fraction: float,
    max_megapixels: float,
    least: Mapping[Split, int] = NO_LIMIT,
) -> ReadImages:
    """Read every image of a table once; those that cannot be read are left out.

    `least` says how many images a split must have left. Raises `DataError` when more images are unreadable than
    allowed, a split has too few left, or the table has no image at all.
    """
    if image_list.rows.empty:
        raise DataError("the table has no image; set data.table to a table with images")
    facts = scan_images(image_list, max_megapixels)
    problems = unreadable(image_list, facts)
    refuse_too_many_unreadable(problems, len(facts), max_unreadable_fraction)
    rows = image_list.rows.assign(
        image_sha256=[fact.sha256 for fact in facts],
        width_px=[fact.width_px for fact in facts],
        height_px=[fact.height_px for fact in facts],
    )[[not fact.problem for fact in facts]]
    if too_few := too_few_images(rows["split"], least):
        raise DataError(f"without the {problems.num_rows} unreadable images there are {', '.join(too_few)}")
    return ReadImages(rows, problems)
