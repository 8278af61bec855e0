"""images without scores -> the table of those that can be read."""

from pipeline_lib.config.base import ImageData
from pipeline_lib.tables.images import IMAGES, UNREADABLE_IMAGES
from tasks.stage import Work, stage


@stage(version=1)
def list_images(work: Work, data: ImageData, seed: int, fingerprint: str) -> None:
    """Read every image of a folder or a table once, and name those that cannot be read."""
    from pipeline_lib.data.read_images import read_images
    from pipeline_lib.data.table import read_image_list

    read = read_images(read_image_list(data, seed), data.max_unreadable_fraction, data.max_megapixels)
    work.write(IMAGES, read.images, extra_columns=True)
    work.write(UNREADABLE_IMAGES, read.unreadable)
