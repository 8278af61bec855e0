"""How far a whole run is: its stages from the plan, the time that the missing ones will take, and what the run cost.

Nothing here ends a run: an estimate that cannot be made is left out.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from prefect.context import FlowRunContext

from pipeline_lib.checks.plan import Planned
from pipeline_lib.checks.time_left import TimeLeft, Took, time_left, time_left_text, took_before
from pipeline_lib.config.base import Runtime
from pipeline_lib.report.cost import cost_of, cost_text
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from tasks.stage.cards import is_part_of_another_run, show_share
from tasks.stage.plan import plan_so_far

log = logging.getLogger("whyscore.run")


@dataclass
class _WholeRun:
    """The stages of a flow run: planned ones by address, and the manifests of those that it asked for."""

    planned: dict[str, Planned] = field(default_factory=dict)
    took: list[Took] = field(default_factory=list)
    computed: dict[str, Manifest] = field(default_factory=dict)
    cached: dict[str, Manifest] = field(default_factory=dict)
    is_whole: bool = True  # whether the plan has all stages, or ends at a missing result that decides what follows
    said: str = ""

    @property
    def left(self) -> TimeLeft:
        done = self.computed.keys() | self.cached.keys()
        missing = (stage for at, stage in self.planned.items() if at not in done and stage.missing is not None)
        return time_left(missing, self.took)


_runs: dict[Any, _WholeRun] = {}
"""By the id of the flow run in this process."""


def expect_stages(store: ArtifactStore) -> None:
    """Plan this flow run, so that from now on each stage says how much is left."""
    run = _this_run()
    context = FlowRunContext.get()
    if run is None or context is None or context.flow is None:
        return
    logger = logging.getLogger("whyscore")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # what the plan says the run has said before
        planned, run.is_whole = plan_so_far(context.flow.fn, *(context.parameters or {}).values())
        run.planned = {stage.ref.address: stage for stage in planned}
        run.took = took_before(store, planned)
    except Exception as error:
        logger.setLevel(level)
        log.info("the time left of this run is not estimated: %s", error)
    finally:
        logger.setLevel(level)


def note_stage(runtime: Runtime, ref: ArtifactRef, title: str, *, cached: bool) -> None:
    """Count a finished stage, and say how much of the run is left."""
    run = _this_run()
    if run is None:
        return
    found = ArtifactStore(runtime.store).lookup(ref.address)
    if not isinstance(found, Manifest) or ref.address in run.computed or ref.address in run.cached:
        return
    (run.cached if cached else run.computed)[ref.address] = found
    run.took.append(Took(title, ref.stage, found.seconds))
    if not run.planned:
        return
    if ref.address not in run.planned and not run.is_whole:
        expect_stages(ArtifactStore(runtime.store))  # the result that decides is there now
    left, total = run.left, len(run.planned)
    more = "" if run.is_whole else " (more may follow from their results)"
    line = f"{total - left.stages} of {total} stages are done{more}"
    line += f"; left: {time_left_text(left)}" if left.stages else ""
    if not cached:
        log.info("%s", line)
    if line != run.said:
        run.said = line
        show_share("whole run", 100 * (total - left.stages) / total, line)


def end_of_run(usd_per_device_hour: float | None) -> None:
    """Say what the run computed and what cached stages saved, in device hours."""
    run = _this_run()
    if run is None or not (run.computed or run.cached):
        return
    computed, saved = (
        cost_text(cost_of(stages.values()), usd_per_device_hour) for stages in (run.computed, run.cached)
    )
    lines = []
    if run.computed:
        lines.append(f"computed {len(run.computed)} stages" + (f" in {computed}" if computed else ""))
    if run.cached:
        lines.append(f"took {len(run.cached)} stages from the store" + (f", which saved {saved}" if saved else ""))
    said = f"this run {' and '.join(lines)}"
    log.info("%s", said)
    if run.planned and not run.left.stages:
        show_share("whole run", 100.0, f"{run.said}; {said}")


def _this_run() -> _WholeRun | None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or is_part_of_another_run():
        return None
    return _runs.setdefault(context.flow_run.id, _WholeRun())
