"""images, variants -> the pairs of a round, or those that no round trains on."""

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.evo_quality.tables import PAIRS
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


@stage(version=1)
def draw_pairs(
    work: Work,
    images: ImageSet,
    count: int,
    seed: int,
    round_number: int,
    variants: ArtifactRef | None = None,
    fraction: float = 0.0,
) -> None:
    """Pairs of training images, a share of them variants of one image; round 0 stands for pairs of validation images.

    No label is read: the table of images has none, and a column that the user calls `score` is not looked at.
    """
    import pyarrow.compute as pc

    from pipeline_lib.methods.evo_quality import pairs

    rows = work.read(images.table, "images")
    rows = rows.filter(pc.equal(rows["split"], "train" if round_number else "val"))
    name = f"round-{round_number:02d}" if round_number else pairs.HELD_OUT
    made = work.read(variants, "made_images").drop_columns(["file"]) if variants else None
    work.write(PAIRS, pairs.draw_pairs(rows, count, name=name, seed=seed, variants=made, fraction=fraction))
