"""Where the runs of a store stand, from what is in it alone: no server is asked, nothing is loaded."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pipeline_lib.errors import StoreError
from pipeline_lib.progress import duration
from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.gc import READERS, SHARED, reachable, read_manifest, references, shared_folders

KINDS = ("zero-shot", "score", "consistency", "merged")
MADE_BY = {"answers": "evaluate", "other_explanations": "probe_faithfulness"}

_PREDICTIONS = re.compile(r"iteration-(\d+)/([a-z-]+)/predictions\.json")
_PART = re.compile(r"(?:(?P<split>[a-z-]+)/)?(?P<kind>shards|checkpoints)/(?P<name>\d+-\d+|step-\d+)/manifest\.json")

Times = dict[str, tuple[int, float]]


class Evaluated(NamedTuple):
    """The newest evaluated model of a run with its figures on test, as text."""

    name: str
    iteration: int
    figures: str


class RunStatus(NamedTuple):
    """What is known of one run."""

    name: str
    finished: bool
    evaluated: Evaluated | None
    newest: str  # pointer that was written last
    newest_s: float  # how long ago
    artifacts: int
    size: int  # bytes of the artifacts that it needs; runs share some


def store_status(store: ArtifactStore, names: list[str] | None = None) -> str:
    """The runs (all, or those named) and what is under way, for a terminal; raises `StoreError` if a run is not there.

    A few listings and small files: seconds also where the store is a bucket.
    """
    times = {
        f"{top}/{path}": facts
        for top in ("runs", "steps", *SHARED)
        for path, facts in store.files.times(store.path(top)).items()
    }
    known = sorted({path.split("/")[1] for path in times if path.startswith("runs/") and path.count("/") > 1})
    if missing := [name for name in names or [] if name not in known]:
        there = f"; there are {', '.join(known)}" if known else ", and no other"
        raise StoreError(f"{store.root} has nothing of a run {missing[0]} yet{there}")
    lines = [f"Store {store.root}: {len(known)} run(s), {_size(sum(size for size, _ in times.values()))}"]
    for name in names or known:
        lines += ["", *_lines(run_status(store, name, times))]
    if open_stages := list(under_way(store, times)):
        lines += ["", "Under way, or left unfinished:", *(f"  {line}" for line in open_stages)]
    return "\n".join(lines)


def run_status(store: ArtifactStore, name: str, times: Times) -> RunStatus:
    """Read one run's pointers and the figures of its newest model; `times` has the files of the store."""
    folder = f"runs/{name}/"
    written = {path.removeprefix(folder): at for path, (_, at) in times.items() if path.startswith(folder)}
    pointers = sorted(path for path in written if path.endswith(".json"))
    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(pointers, pool.map(lambda path: store.read_pointer(folder + path), pointers), strict=True))
    manifests = reachable(store, {address for pointer in found.values() for address in references(pointer)})
    newest = max(written, key=lambda path: written[path])
    return RunStatus(
        name=name,
        finished=written.get("report.json", 0.0)
        >= max((at for path, at in written.items() if path.startswith("iteration-")), default=1.0),
        evaluated=_newest_model(store, found),
        newest=newest.removesuffix(".json"),
        newest_s=max(0.0, time.time() - written[newest]),
        artifacts=len(manifests),
        size=sum(entry.size for manifest in manifests.values() for entry in manifest.files.values()),
    )


def under_way(store: ArtifactStore, times: Times) -> Iterator[str]:
    """Stages that have shards or checkpoints and no artifact yet, the newest first."""
    parts: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for path, (_, at) in times.items():
        top, *rest = path.split("/")
        depth = 2 if top == "steps" else 1
        if top != "runs" and (part := _PART.fullmatch("/".join(rest[depth:]))):
            parts["/".join([top, *rest[:depth]])][part["kind"]][part["name"]] = at
    finished = {path.removesuffix("/manifest.json") for path in times if path.endswith("/manifest.json")}
    asking = [path for path in finished if path.split("/")[1] in MADE_BY.values()]
    with ThreadPoolExecutor(READERS) as pool:
        made = [manifest for manifest in pool.map(lambda path: read_manifest(store, path), asking) if manifest]
    finished |= {
        folder
        for manifest in made
        for folder in shared_folders(manifest)
        if MADE_BY[folder.split("/")[0]] == manifest.address.split("/")[1]
    }
    left = {address: kinds for address, kinds in parts.items() if address not in finished}
    for address, kinds in sorted(left.items(), key=lambda item: -_written(item[1])):
        top, *_, key = address.split("/")
        stage = MADE_BY.get(top) or address.split("/")[1]
        ago = duration(max(0.0, time.time() - _written(kinds)))
        yield f"{stage} {key[:8]}: {' and '.join(_progress(kinds))}, written {ago} ago"


def _progress(kinds: dict[str, dict[str, float]]) -> Iterator[str]:
    if shards := kinds.get("shards"):
        rows = sum(int(end) - int(start) for start, end in (name.split("-") for name in shards))
        yield f"{rows:,} images in {len(shards)} shard(s)"
    if checkpoints := kinds.get("checkpoints"):
        yield f"a checkpoint of step {int(max(checkpoints).removeprefix('step-'))}"


def _written(kinds: dict[str, dict[str, float]]) -> float:
    return max(at for names in kinds.values() for at in names.values())


def _newest_model(store: ArtifactStore, pointers: dict[str, Any]) -> Evaluated | None:
    matches = [match for path in pointers if (match := _PREDICTIONS.fullmatch(path)) and match[2] in KINDS]
    if not matches:
        return None
    match = max(matches, key=lambda match: (int(match[1]), KINDS.index(match[2])))
    iteration, kind = int(match[1]), match[2]
    folder = match[0].removesuffix("predictions.json")
    judged = next((name for name in ("openai_verdicts", "verdicts") if f"{folder}{name}.json" in pointers), None)
    figures = [_figure(store, pointers[match[0]], "srcc_fitted", "SRCC")]
    if judged:
        who = "judge model" if judged == "openai_verdicts" else "round-trip judge"
        figures.append(_figure(store, pointers[f"{folder}{judged}.json"], "cons", "Cons") + f" ({who})")
    return Evaluated(f"ite-{iteration} {kind}" if iteration else kind, iteration, ", ".join(figures))


def _figure(store: ArtifactStore, pointer: Any, metric: str, heading: str) -> str:
    address = next(references(pointer), None)
    if address is None or not isinstance(store.lookup(address), Manifest):
        return f"{heading} is not in the store any more"
    for row in store.read_table(address, "metrics").to_pylist():
        if row["metric"] == metric and row["split"] == "test":
            return f"{heading} {row['value']:.3f} [{row['low']:.2f} {row['high']:.2f}]"
    return f"no {heading} on test"


def _lines(run: RunStatus) -> list[str]:
    state = "finished" if run.finished else "not finished"
    ite = f", iteration {run.evaluated.iteration}" if run.evaluated else ", nothing evaluated yet"
    lines = [
        f"{run.name}: {state}{ite}",
        f"  newest: {run.newest}, {duration(run.newest_s)} ago",
        f"  needs {_size(run.size)} in {run.artifacts} artifacts",
    ]
    if run.evaluated:
        lines.insert(1, f"  {run.evaluated.name}: {run.evaluated.figures}")
    return lines


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
