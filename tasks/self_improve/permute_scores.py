"""images with bins -> the same with the training scores permuted."""

from pipeline_lib.methods.self_improve.tables import BINS, IMAGES
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.images import UNREADABLE_IMAGES
from tasks.stage import Work, stage


@stage(version=1)
def permute_scores(work: Work, images: ArtifactRef, seed: int) -> None:
    """Shuffle the scores of the training images among them; validation, test and the bins stay the same."""
    from pipeline_lib.methods.self_improve.permute import permute_training_scores

    work.write(IMAGES, permute_training_scores(work.read(images, "images"), seed), extra_columns=True)
    work.write(BINS, work.read(images, "bins"))
    work.write(UNREADABLE_IMAGES, work.read(images, "unreadable_images"))
