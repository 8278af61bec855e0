"""predictions of every model -> anchors."""

from collections.abc import Sequence

from pipeline_lib.methods.self_improve.tables import ANCHORS
from pipeline_lib.store import ArtifactRef
from tasks.stage import Work, stage


# 2: verdicts name the group of the image
@stage(version=2)
def keep_anchors(work: Work, rows: int, answered: Sequence[tuple[int, str, ArtifactRef]], seed: int) -> None:
    """Keep the explanations of the same test images by every model, so that a later judge can re-score them all."""
    from pipeline_lib.methods.self_improve.anchors import draw_anchors

    predictions = [(iteration, kind, work.read(ref, "predictions")) for iteration, kind, ref in answered]
    work.write(ANCHORS, draw_anchors(predictions, rows, seed))
