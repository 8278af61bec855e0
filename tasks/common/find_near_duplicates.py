"""images -> pairs that look the same and are in different splits."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.tables.images import NEAR_DUPLICATES
from tasks.stage import Work, stage


@stage(version=1)
def find_near_duplicates(work: Work, images: ImageSet, near_bits: int) -> None:
    """Compare what images look like between splits, by perceptual hashes and brightness."""
    import pyarrow as pa

    from pipeline_lib.data.near_duplicates import look_at_images, near_duplicates

    table = work.read(images.table, "images").select(["image", "image_sha256", "split"])
    names, splits = table["image"].to_pylist(), table["split"].to_pylist()
    looks = look_at_images(names, table["image_sha256"].to_pylist(), images.full_size_opener())
    pairs = near_duplicates(looks, splits, near_bits=near_bits)
    rows = [
        {
            "image": names[first],
            "split": splits[first],
            "other_image": names[second],
            "other_split": splits[second],
            "bits": bits,
            "correlation": correlation,
        }
        for first, second, bits, correlation in pairs
    ]
    work.write(NEAR_DUPLICATES, pa.Table.from_pylist(rows, schema=NEAR_DUPLICATES.schema))
