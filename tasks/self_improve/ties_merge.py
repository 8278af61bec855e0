"""score adapter, consistency adapter -> merged adapter."""

import tempfile
from pathlib import Path

from pipeline_lib.methods.self_improve.recipe import Merge
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=2, gpu=True)
def ties_merge(
    work: Work, config: Merge, base: ModelRef, score_adapter: ArtifactRef, consistency_adapter: ArtifactRef, seed: int
) -> None:
    """Merge the two specialised adapters into one, with TIES unless the recipe compares other ways (section 3.2)."""
    from pipeline_lib.device import pick_device
    from pipeline_lib.methods.self_improve.merge import merge_adapters
    from pipeline_lib.vlm.adapter import fetch_adapter
    from pipeline_lib.vlm.load import load_base

    # Factors are merged in seconds; the decomposition of large updates needs the device.
    device = "cpu" if config.space == "factors" else work.runtime.device
    with tempfile.TemporaryDirectory(prefix="whyscore-merge-") as folder:
        score, consistency = Path(folder) / "score", Path(folder) / "consistency"
        fetch_adapter(work.store, score_adapter, score)
        fetch_adapter(work.store, consistency_adapter, consistency)
        merge_adapters(
            load_base(base, pick_device(device), work.store),
            score,
            consistency,
            work.attempt.folder,
            config,
            seed=seed,
            base_name=base.name,
        )
