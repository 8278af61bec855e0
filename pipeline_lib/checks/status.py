"""The state of the runs of a store, from the store alone: without a server and without loading anything."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline_lib.errors import StoreError
from pipeline_lib.progress import duration
from pipeline_lib.report.cost import Cost, cost_of, cost_text
from pipeline_lib.report.provenance import provenance, provenance_text
from pipeline_lib.report.verdict import Verdict, verdict_line, verdict_of_run, verdict_text
from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.gc import reachable, read_manifest, references
from pipeline_lib.store.runs import folder_of, models_of, read_pointers, read_run, written
from pipeline_lib.store.shards import Writer, writer_of

KINDS = ("zero-shot", "score", "consistency", "merged")
"""The models of an iteration in their order, where a method has several."""

_PART = re.compile(
    r"(?P<folder>(?:steps|scratch)/.+/(?P<kind>shards|checkpoints))/(?P<name>\d+-\d+|step-\d+)/manifest\.json"
)

Times = dict[str, tuple[int, float]]


class Evaluated(NamedTuple):
    """The newest evaluated model of a run with its figures on test, as text."""

    name: str
    iteration: int
    figures: str


class RunStatus(NamedTuple):
    """The facts about one run."""

    name: str
    of_recipe: bool  # whether its run.json names its recipe; if not, no pointer is valid
    finished: bool
    evaluated: Evaluated | None
    newest: str  # file that was written last
    newest_s: float  # how long ago
    artifacts: int
    size: int  # bytes of the artifacts that it needs; runs share some
    verdict: Verdict | None
    made: str  # when, where and in what time; empty without a report
    manifests: dict[str, Manifest]  # of the artifacts that it needs, by address


def store_status(store: ArtifactStore, names: list[str] | None = None, usd_per_device_hour: float | None = None) -> str:
    """The runs (all, or those named) and what is under way, for a terminal; raises `StoreError` if a run is not there.

    The verdict of each has one line, or all its lines where runs are named. A few listings and small files: seconds
    also where the store is a bucket.
    """
    found = written(store)
    times = {
        f"{top}/{path}": facts
        for top in ("steps", "scratch")
        for path, facts in store.files.times(store.path(top)).items()
    }
    known = sorted(found)
    if missing := [name for name in names or [] if name not in known]:
        there = f"; there are {', '.join(known)}" if known else ", and no other"
        raise StoreError(f"{store.root} has nothing of a run {missing[0]} yet{there}")
    size = sum(size for files in (times, *found.values()) for size, _ in files.values())
    lines = [f"Store {store.root}: {len(known)} run(s), {_size(size)}"]
    runs = [run_status(store, name, found[name], usd_per_device_hour) for name in names or known]
    if shared := _shared(runs, usd_per_device_hour):
        lines.append(shared)
    for run in runs:
        lines += ["", *_lines(run, usd_per_device_hour, whole=names is not None)]
    if open_stages := list(under_way(store, times)):
        lines += ["", "Under way or unfinished:", *(f"  {line}" for line in open_stages)]
    return "\n".join(lines)


def run_status(store: ArtifactStore, name: str, files: Times, usd_per_device_hour: float | None = None) -> RunStatus:
    """Read one run's pointers and the figures of its newest model; `files` are those of its folder."""
    run = read_run(store, name)
    pointers = run.pointers() if run else {}
    at = {role: files[f"{role}.json"][1] for role in pointers if f"{role}.json" in files}
    manifests = reachable(store, {address for pointer in pointers.values() for address in references(pointer)})
    newest = max(files, key=lambda path: files[path][1])
    report = run.find("report") if run else None
    return RunStatus(
        name=name,
        of_recipe=run is not None,
        finished=at.get("report", 0.0)
        >= max((time for role, time in at.items() if role.startswith("iteration-")), default=1.0),
        evaluated=_newest_model(store, pointers),
        newest=newest.removesuffix(".json"),
        newest_s=max(0.0, time.time() - files[newest][1]),
        artifacts=len(manifests),
        size=sum(entry.size for manifest in manifests.values() for entry in manifest.files.values()),
        verdict=verdict_of_run(run) if run else None,
        made=provenance_text(provenance(manifests, report.address), usd_per_device_hour)
        if report and report.address in manifests
        else "",
        manifests=manifests,
    )


def under_way(store: ArtifactStore, times: Times) -> Iterator[str]:
    """Stages that have shards or checkpoints and no artifact yet, the newest first; `times` has the store's files."""
    parts: dict[str, dict[str, float]] = defaultdict(dict)
    for path, (_, at) in times.items():
        if part := _PART.fullmatch(path):
            parts[part["folder"]][part["name"]] = at
    stages: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    used: set[str] | None = None
    for folder, names in parts.items():
        address, _, kind = folder.rpartition("/")
        if f"{address}/manifest.json" in times:
            continue
        stage, label = _writer(store, f"{folder}/{max(names, key=lambda name: names[name])}", address)
        if f"{stage}/manifest.json" in times:
            continue
        if stage != address:  # others may have used them since
            used = used if used is not None else _scratch_in_use(store)
            if folder in used:
                continue
        stages[stage, label][kind] = names
    for (stage, label), kinds in sorted(stages.items(), key=lambda item: -_written(item[1])):
        ago = duration(max(0.0, time.time() - _written(kinds)))
        yield f"{label} {stage.rpartition('/')[2][:8]}: {' and '.join(_progress(kinds))}, written {ago} ago"


def _progress(kinds: dict[str, dict[str, float]]) -> Iterator[str]:
    if shards := kinds.get("shards"):
        rows = sum(int(end) - int(start) for start, end in (name.split("-") for name in shards))
        yield f"{rows:,} images in {len(shards)} shard(s)"
    if checkpoints := kinds.get("checkpoints"):
        yield f"a checkpoint of step {int(max(checkpoints).removeprefix('step-'))}"


def _written(kinds: dict[str, dict[str, float]]) -> float:
    return max(at for names in kinds.values() for at in names.values())


def _writer(store: ArtifactStore, part: str, address: str) -> Writer:
    """The stage of a shard or checkpoint: the one that it names, else the one of its folder."""
    manifest = read_manifest(store, part)
    found = writer_of(manifest) if manifest else None
    return found or Writer(address, address.split("/")[1])


def _scratch_in_use(store: ArtifactStore) -> set[str]:
    """The scratch folders of all artifacts that some run needs."""
    paths = [f"{folder_of(name)}/{path}" for name, files in written(store).items() for path in files]
    pointers = [pointer for _, pointer in read_pointers(store, paths) if pointer is not None]
    needed = reachable(store, {address for pointer in pointers for address in references(pointer)})
    return {folder for manifest in needed.values() for folder in manifest.scratch}


def _newest_model(store: ArtifactStore, pointers: dict[str, Any]) -> Evaluated | None:
    models = models_of(pointers)
    if not models:
        return None
    place = {kind: at for at, kind in enumerate(KINDS)}
    model = max(models, key=lambda model: (model.iteration, place.get(model.kind, 0)))
    judged = next((name for name in ("openai_verdicts", "verdicts") if model.role(name) in pointers), None)
    figures = [_figure(store, pointers[model.role("predictions")], "srcc_stated", "SRCC stated")]
    if judged:
        who = "judge model" if judged == "openai_verdicts" else "round-trip judge"
        figures.append(_figure(store, pointers[model.role(judged)], "cons", "Cons") + f" ({who})")
    name = f"ite-{model.iteration} {model.kind}" if model.iteration else model.kind
    return Evaluated(name, model.iteration, ", ".join(figures))


def _figure(store: ArtifactStore, pointer: Any, metric: str, heading: str) -> str:
    address = next(references(pointer), None)
    if address is None or not isinstance(store.lookup(address), Manifest):
        return f"{heading} is not in the store any more"
    rows = store.read_table(address, "metrics").to_pylist()
    for row in rows:
        if row["metric"] == metric and row["split"] == "test":
            return f"{heading} {row['value']:.3f} [{row['low']:.2f} {row['high']:.2f}]"
    if not rows:
        return f"no {heading} on test"
    main = rows[0]  # a method that measures something else has its main figure first
    return f"{main['metric'].replace('_', ' ')} {main['value']:.3f} [{main['low']:.2f} {main['high']:.2f}]"


def _shared(runs: list[RunStatus], usd_per_device_hour: float | None) -> str:
    """What several runs took together, and what they did not have to compute because another had."""
    once = cost_of({at: one for run in runs for at, one in run.manifests.items()}.values())
    each = [cost_of(run.manifests.values()) for run in runs]
    gpu_s, other_s = sum(one.gpu_s for one in each) - once.gpu_s, sum(one.other_s for one in each) - once.other_s
    saved = Cost(round(gpu_s, 3), round(other_s, 3))
    if len(runs) < 2 or not (said := cost_text(once, usd_per_device_hour)):
        return ""
    shared = cost_text(saved, usd_per_device_hour)
    return f"Together they took {said}" + (f"; stages that several of them share saved {shared}" if shared else "")


def _lines(run: RunStatus, usd_per_device_hour: float | None, *, whole: bool) -> list[str]:
    state = "finished" if run.finished else "not finished"
    ite = "" if run.finished else ", nothing evaluated yet"  # there are methods that evaluate nothing
    if run.evaluated:
        ite = f", iteration {run.evaluated.iteration}"
    if not run.of_recipe:
        state, ite = "its recipe is not known, because its run.json is missing or damaged; run the recipe again", ""
    lines = [
        f"{run.name}: {state}{ite}",
        f"  newest: {run.newest}, {duration(run.newest_s)} ago",
        f"  needs {_size(run.size)} in {run.artifacts} artifacts",
    ]
    if run.evaluated:
        lines.insert(1, f"  {run.evaluated.name}: {run.evaluated.figures}")
    if run.made:
        lines.append(f"  {run.made}")
    elif cost := cost_text(cost_of(run.manifests.values()), usd_per_device_hour):
        lines.append(f"  took {cost} so far")
    if run.verdict:
        said = verdict_text(run.verdict).splitlines() if whole else [verdict_line(run.verdict)]
        lines += [f"  {line}" for line in said]
    return lines


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
