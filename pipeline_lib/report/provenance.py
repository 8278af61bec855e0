"""When, where and in what time the results of a run were computed, from the manifests of its artifacts.

None of that can be in the report's artifact: equal runs have equal artifacts, whenever and wherever they are computed.
So the page has a mark, and the copy for people in `runs/<name>/report/` has these facts in its place (decision 22).
"""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from markupsafe import escape

from pipeline_lib.errors import StoreError
from pipeline_lib.progress import duration
from pipeline_lib.report.cost import Cost, cost_of, cost_text
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.store.gc import reachable, references

log = logging.getLogger("whyscore.run")

MARK = "<!-- provenance -->"
"""Where a page has the facts."""


class Provenance(NamedTuple):
    """Facts about an artifact and all that it was made from; what earlier versions did not note is None or left out."""

    version: str | None  # of whyscore
    published: str | None  # time of the artifact itself, UTC
    stages: int
    seconds: float  # of all stages, computed by this run or by others that share them
    cost: Cost
    devices: tuple[str, ...]  # of stages with a model: cpu, mps and names of GPUs


def provenance(manifests: Mapping[str, Manifest], address: str) -> Provenance:
    """The facts about an artifact, from the manifests of itself and of all that it was made from, among others."""
    own, wanted, used = manifests.get(address), {address}, dict[str, Manifest]()
    while wanted:
        used |= {at: manifests[at] for at in wanted if at in manifests}
        wanted = {at for one in wanted if one in used for at in references(used[one].arguments)} - used.keys()
        wanted &= manifests.keys()
    return Provenance(
        version=own.versions.get("whyscore") if own else None,
        published=own.published if own else None,
        stages=len(used),
        seconds=sum(one.seconds for one in used.values()),
        cost=cost_of(used.values()),
        devices=tuple(sorted({one.device for one in used.values() if one.device})),
    )


def provenance_text(found: Provenance, usd_per_device_hour: float | None = None) -> str:
    """The facts in a sentence or two, with the price of the device hours if there is one."""
    day = f" on {found.published[:10]}" if found.published else ""
    version = f" by WhyScore {found.version}" if found.version else ""
    where = f" on {', '.join(_shown(device) for device in found.devices)}" if found.devices else ""
    hours = cost_text(found.cost, usd_per_device_hour)
    cost = f", {hours}" if hours else ""
    made = f"Made{day}{version}. " if day or version else ""
    return f"{made}Its {found.stages} stages took {duration(found.seconds)} of computing{where}{cost}."


def filled(
    store: ArtifactStore, ref: ArtifactRef, usd_per_device_hour: float | None = None
) -> Callable[[str, bytes], bytes]:
    """A function that puts the facts into the pages among an artifact's files: `change` of `copy_out`."""
    try:
        text = provenance_text(provenance(reachable(store, [ref.address]), ref.address), usd_per_device_hour)
    except StoreError as error:
        log.warning("the report does not say when and in what time it was made: %s", error)
        text = ""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(".html"):
            return content
        return content.replace(MARK.encode(), str(escape(text)).encode())

    return change


def _shown(device: str) -> str:
    return {"cpu": "a CPU", "mps": "an Apple GPU"}.get(device, device)
