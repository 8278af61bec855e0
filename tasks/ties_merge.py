"""score adapter, consistency adapter -> merged adapter."""

import tempfile
from pathlib import Path

from pipeline_lib.recipe import Merge
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1)
def ties_merge(
    work: Work, config: Merge, base: ModelRef, score_adapter: ArtifactRef, consistency_adapter: ArtifactRef
) -> None:
    """Merge the two specialised adapters into one with TIES (section 3.2)."""
    from pipeline_lib.merge.ties import ties_merge_adapters
    from pipeline_lib.vlm.load import load_base, pick_device

    with tempfile.TemporaryDirectory(prefix="whyscore-merge-") as folder:
        score, consistency = Path(folder) / "score", Path(folder) / "consistency"
        work.store.fetch(score_adapter.address, score)
        work.store.fetch(consistency_adapter.address, consistency)
        ties_merge_adapters(
            load_base(base, pick_device("cpu")),
            score,
            consistency,
            work.attempt.folder,
            weights=config.weights,
            density=config.density,
            majority_sign_method=config.majority_sign_method,
            base_name=base.name,
        )
