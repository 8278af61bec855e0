"""images -> distorted variants of the training images, with their files."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.images import MADE_IMAGES
from tasks.stage import Work, stage


@stage(version=1, in_shards=True)
def make_variants(work: Work, images: ImageSet, resize_px: int, per_image: int, kinds: int, seed: int) -> None:
    """Distort every training image several times; the table says how, and holds the files."""
    work.write(MADE_IMAGES, work.in_shards(variants, images, resize_px, per_image, kinds, seed))


def variants(work: Work, images: ImageSet, resize_px: int, per_image: int, kinds: int, seed: int) -> InShards:
    """The variants of every training image."""
    import pyarrow.compute as pc

    from pipeline_lib.methods.evo_quality.variants import make_variants as make

    rows = work.read(images.table, "images")
    rows = rows.filter(pc.equal(rows["split"], "train"))
    open_image = images.opener(resize_px)
    return InShards(
        work.address,
        rows,
        MADE_IMAGES,
        lambda part, progress: make(part, open_image, per_image, seed, progress, kinds),
    )
