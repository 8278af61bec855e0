"""How long missing stages will take, from what the same stages took before."""

import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from pipeline_lib.checks.plan import Planned
from pipeline_lib.progress import duration
from pipeline_lib.report.cost import cost_of, cost_text
from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.runs import last_pointers

SHOWN = 3


class Took(NamedTuple):
    """A stage that was computed; `label` is empty where only its artifact is known."""

    label: str
    stage: str
    seconds: float


class TimeLeft(NamedTuple):
    """Estimated seconds of missing stages, and the names of those stages that nothing is known of."""

    seconds: float
    stages: int
    unknown: tuple[str, ...]


def took_before(store: ArtifactStore, planned: Sequence[Planned]) -> list[Took]:
    """The stages of a plan that are in the store, and those that the last pointers of its runs name."""
    found = [(stage.label, stage.ref) for stage in planned if stage.missing is None]
    for run in {stage.run for stage in planned if stage.run}:
        found += [("", ref) for ref in last_pointers(store, run).values()]
    seen: set[str] = set()
    took = []
    for label, ref in found:
        if ref.address in seen:
            continue
        seen.add(ref.address)
        if isinstance(manifest := store.lookup(ref.address), Manifest):
            took.append(Took(label, ref.stage, manifest.seconds))
    return took


def time_left(missing: Iterable[Planned], took: Sequence[Took]) -> TimeLeft:
    """The sum over missing stages of the mean of the same stage before: with the same label but for its numbers
    (`ite-2 merged evaluate` as `ite-1 merged evaluate`), else with the same name.

    Another number of images, another model or another device is not taken into account.
    """
    seconds, stages, unknown = 0.0, 0, list[str]()
    for stage in missing:
        stages += 1
        named = [one for one in took if one.stage == stage.ref.stage]
        alike = [one for one in named if one.label and _shape(one.label) == _shape(stage.label)] or named
        if alike:
            seconds += fmean(one.seconds for one in alike)
        elif stage.ref.stage not in unknown:
            unknown.append(stage.ref.stage)
    return TimeLeft(seconds, stages, tuple(unknown))


def time_left_text(left: TimeLeft) -> str:
    """`about 5 min 00 s for 3 stages`; says which stages are not in it. Empty when no stage is missing."""
    if not left.stages:
        return ""
    count = f"{left.stages} stage{'s' if left.stages > 1 else ''}"
    many = len(left.unknown) > SHOWN
    unknown = f"{len(left.unknown)} kinds of stages" if many else ", ".join(left.unknown)
    if left.unknown and not left.seconds:
        return f"time for {count} not known yet: no earlier {unknown} to compare with"
    return f"about {duration(left.seconds)} for {count}" + (
        f", without {unknown} (never computed yet)" if unknown else ""
    )


def plan_notes(store: ArtifactStore, planned: Sequence[Planned], usd_per_device_hour: float | None) -> list[str]:
    """For the end of a plan: how long the missing stages will take, and the device hours that the cached ones save."""
    left = time_left_text(time_left((one for one in planned if one.missing is not None), took_before(store, planned)))
    cached = [store.lookup(address) for address in {one.ref.address for one in planned if one.missing is None}]
    saved = cost_text(cost_of(one for one in cached if isinstance(one, Manifest)), usd_per_device_hour)
    return [
        *([f"To compute: {left}"] if left else []),
        *([f"Cached stages save {saved}"] if saved else []),
    ]


def _shape(label: str) -> str:
    return re.sub(r"\d+", "0", label)
