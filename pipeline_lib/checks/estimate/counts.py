"""Numbers of images in a recipe's tables: from the table if it is there, else those of a published data set."""

from collections.abc import Mapping

from pipeline_lib.config.base import SPLITS, ImageData
from pipeline_lib.data.table import CheckedTable, ImageList
from pipeline_lib.errors import DataError

PUBLISHED: dict[str, dict[str, int]] = {
    "aadb": {"train": 8458, "val": 500, "test": 1000},
    "koniq10k": {"train": 7058, "val": 1000, "test": 2015},
    "ava": {"all": 255_530},
    "spaq": {"all": 11_125},
    "kadid10k": {"all": 10_125},
    "tid2013": {"all": 3000},
}
"""Images of data sets, by their official splits where they have any."""

_CUSTOMARY_TEST = 20_000  # ids of AVA's generic_test.jpgl


def images_of(data: ImageData, table: ImageList | CheckedTable | None = None) -> Mapping[str, int] | None:
    """Images of each split and of `all`; None for a table that is neither here nor published."""
    if table is not None:
        rows = table.images.rows if isinstance(table, CheckedTable) else table.rows
        found = {str(name): int(count) for name, count in rows["split"].value_counts().items()}
    else:
        published = PUBLISHED.get(data.dataset)
        if published is None:
            return None
        found = dict(published)
        if "all" in found:
            every = found["all"]
            test = round(every * data.test_fraction)
            if data.dataset == "ava" and data.split_lists.test:
                test = _CUSTOMARY_TEST
            left = every - test if data.split_lists.test else every
            val = round(left * data.val_fraction)
            found = {"train": every - test - val, "val": val, "test": test}
    found = {name: found.get(name, 0) for name in SPLITS}
    return {**found, "all": sum(found.values())}


def known_images_of(data: ImageData, table: ImageList | CheckedTable | None) -> Mapping[str, int]:
    """`images_of`; raises `DataError` where there is neither a table nor a published number."""
    found = images_of(data, table)
    if found is None:
        raise DataError("no estimate: the table of images is not on this machine")
    return found
