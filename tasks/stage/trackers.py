"""Tells trackers about finished stages: figures, the address of the artifact, results and verdict."""

import logging
import math
from collections import defaultdict
from functools import partial

from pipeline_lib.config.base import Runtime, TrackerName
from pipeline_lib.report.verdict import FILE, verdict_of, verdict_text
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.trackers.background import background
from pipeline_lib.trackers.tracker import Entry, Record, Tracker, entry_id, open_tracker
from tasks.stage.cards import is_part_of_another_run, run_name

log = logging.getLogger("whyscore.trackers")

RESULTS = ("results.txt", "comparison.txt")

_waiting: dict[tuple[TrackerName, str], list[Record]] = defaultdict(list)
_trackers: dict[TrackerName, Tracker] = {}


def track_stage(runtime: Runtime, ref: ArtifactRef, title: str) -> None:
    """Add a stage to the entry of its run, computed or cached; nothing without trackers, or for another flow's stage.

    Sent beside the work, several stages at once when they follow each other faster than the tracker answers.
    """
    name = run_name()
    if not runtime.trackers or not name or is_part_of_another_run():
        return
    store = ArtifactStore(runtime.store)
    try:
        record = _record(store, ref, title)
    except Exception as error:  # a damaged artifact is found and computed again by whoever uses it
        log.warning("%s is not in the trackers: %s", title, error)
        return
    entry = Entry(entry_id(store.root, name), name, "", {"store": store.root})
    for tracker in runtime.trackers:
        _waiting[tracker, entry.id].append(record)
        background(_purpose(tracker)).submit(partial(_send, tracker, entry))


def flush(runtime: Runtime) -> None:
    """Wait a while until the trackers know all finished stages."""
    for tracker in runtime.trackers:
        background(_purpose(tracker)).close()


def _purpose(tracker: TrackerName) -> str:
    return f"{tracker} (figures of stages)"


def _send(name: TrackerName, entry: Entry) -> None:
    waiting = _waiting[name, entry.id]
    if not (records := list(waiting)):
        return
    if name not in _trackers:
        _trackers[name] = open_tracker(name)
    _trackers[name].record(entry, records)
    del waiting[: len(records)]  # those that came meanwhile have a call of their own


def _record(store: ArtifactStore, ref: ArtifactRef, title: str) -> Record:
    manifest = store.lookup(ref.address)
    files = manifest.files if isinstance(manifest, Manifest) else {}
    figures: dict[str, float] = {}
    if "metrics.parquet" in files:
        for row in store.read_table(ref.address, "metrics").to_pylist():
            if math.isfinite(row["value"]):
                figures["/".join(str(row[name]) for name in ("split", "metric") if row.get(name))] = row["value"]
    if isinstance(manifest, Manifest):
        figures["seconds"] = manifest.seconds
    texts = {name: store.read_file(ref.address, name).decode() for name in RESULTS if name in files}
    if FILE in files and (verdict := verdict_of(store, ref)):
        texts["verdict.txt"] = verdict_text(verdict)
    return Record(title, ref.address, figures, texts)
