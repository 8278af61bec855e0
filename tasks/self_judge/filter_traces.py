"""reasons -> those kept for training."""

from pipeline_lib.methods.self_judge.recipe import Filter
from pipeline_lib.methods.self_judge.tables import FILTERED, TRACES
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.metrics import METRICS
from tasks.stage import Work, stage


@stage(version=1)
def filter_traces(work: Work, config: Filter, reasons: ArtifactRef, flipped: bool = False) -> None:
    """Keep reasons whose verdict is the synthetic preference, or for the control the opposite (stage II)."""
    from pipeline_lib.methods.self_judge.traces import filter_reasons

    found = filter_reasons(work.read(reasons, "reasons"), config, flipped=flipped)
    work.write(TRACES, found.traces)
    work.write(FILTERED, found.pairs)
    work.write(METRICS, found.metrics)
