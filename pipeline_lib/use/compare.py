"""Compare runs: what their recipes say, what their models were measured on, how they were trained, what they cost.

Everything comes from the stores of the runs. Nothing is computed but figures of tables, and no model is asked.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline_lib.config.load import load_recipe, parse_recipe
from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.metrics.scores import UNDEFINED, Estimate
from pipeline_lib.report.verdict import verdict_of_run
from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.gc import reachable, references
from pipeline_lib.store.runs import RunFolder, RunModel, names, read_run
from pipeline_lib.use.measured import Difference, Figure, Measured, Settings, difference, estimates, measured_of, shared

MOST = 3
"""Runs that one comparison takes."""


class Training(NamedTuple):
    """A training of a run and its log, a row a step."""

    model: RunModel
    log: pa.Table


class Side(NamedTuple):
    """One of the compared runs."""

    letter: str  # A, B or C
    run: RunFolder
    base: RunModel | None
    model: RunModel  # the one that is compared
    why: str  # why this model
    measured: Mapping[RunModel, Sequence[Measured]]  # of the base and of each model that the next iteration starts from
    trainings: Sequence[Training]
    manifests: Mapping[str, Manifest]  # of all artifacts that the run needs

    @property
    def method(self) -> str:
        """The method of the run."""
        return str(self.run.fields.get("method", "self_improve"))


class Compared(NamedTuple):
    """A figure of some items that runs were measured on; `places` says where each run has it."""

    items: str
    data: str
    figure: str
    heading: str
    decimals: int
    lower_is_better: bool
    places: Mapping[str, tuple[str, str]]  # by letter: items and data set


class Facts(NamedTuple):
    """A comparison, without its form."""

    sides: Sequence[Side]
    settings: Settings
    figures: Sequence[Compared]
    values: Mapping[tuple[str, RunModel, int], Estimate]  # by letter, model and position in `figures`
    differences: Mapping[tuple[str, str, int], Difference]  # by letters of the earlier and the later run


def find_run(what: str, store: str) -> RunFolder:
    """The run that a recipe (.yaml), a run's folder or the name of a run in `store` names.

    Raises `RecipeError` when the run is of another recipe than the file, `StoreError` when there is no such run.
    """
    recipe = None
    if what.endswith((".yaml", ".yml")):
        recipe = load_recipe(what)
        store, name = recipe.runtime.store, recipe.name
    elif "/" in what.rstrip("/"):
        place, _, name = what.rstrip("/").rpartition("/")
        store, _, top = place.rpartition("/")
        if top != "runs":
            raise StoreError(
                f"{what} is no folder of a run; expected <store>/runs/<name>, the name of a run or a recipe"
            )
        store = store or "/"
    else:
        name = what
    artifacts = ArtifactStore(store)
    run = read_run(artifacts, name)
    if run is None:
        known = names(artifacts)
        raise StoreError(f"{artifacts.root} has no run {name}; there are {', '.join(known) if known else 'none'}")
    if "method" not in run.fields and "data" not in run.fields:
        raise StoreError(f"{name} is a comparison of seeds; give the runs of its seeds")
    if recipe is not None:
        run.check(recipe)
    return run


def compare_runs(runs: Sequence[RunFolder]) -> Facts:
    """Compare two or three runs, each later one with the first; raises `RecipeError` or `StoreError`."""
    if not 2 <= len(runs) <= MOST:
        raise RecipeError(f"give two or three runs to compare, found {len(runs)}")
    places = [(run.store.root, run.name) for run in runs]
    if len(set(places)) < len(places):
        raise RecipeError("the same run is given twice; give different runs")
    sides = [_side(letter, run) for letter, run in zip("ABC", runs, strict=False)]
    config = sides[0].run.fields.get("evaluation") or {}
    settings = Settings(
        config.get("bootstrap_samples", 1000), config.get("confidence", 0.95), sides[0].run.fields["seed"]
    )
    figures = _figures(sides)
    values = {}
    for side in sides:
        for model, all_measured in side.measured.items():
            found = {
                (measured.items, measured.data, name): estimate
                for measured in all_measured
                for name, estimate in estimates(measured, settings).items()
            }
            for at, compared in enumerate(figures):
                place = compared.places.get(side.letter)
                values[side.letter, model, at] = found.get((*place, compared.figure), UNDEFINED) if place else UNDEFINED
    first = sides[0]
    differences = {
        (first.letter, side.letter, at): _difference(first, side, compared, settings)
        for side in sides[1:]
        for at, compared in enumerate(figures)
    }
    return Facts(sides, settings, figures, values, differences)


def value(facts: Facts, side: Side, model: RunModel, at: int) -> Estimate:
    """A figure of a model with its interval; undefined where it was not measured."""
    return facts.values.get((side.letter, model, at), UNDEFINED)


def recipe_differences(sides: Sequence[Side]) -> tuple[list[tuple[str, list[str]]], dict[str, list[str]]]:
    """The fields that differ, with a value for each run; and by letter the sections that this run alone has."""
    flat = [_flat(_completed(side.run.fields)) for side in sides]
    rows = [
        (field, [_shown(fields[field]) if field in fields else "–" for fields in flat])
        for field in dict.fromkeys(field for fields in flat for field in fields)
        if sum(field in fields for fields in flat) > 1
        and len({json.dumps(fields.get(field, "–"), sort_keys=True) for fields in flat}) > 1
    ]
    alone: dict[str, list[str]] = {}
    for side, fields in zip(sides, flat, strict=True):
        others = set().union(*(other for other in flat if other is not fields))
        alone[side.letter] = sorted(field for field in fields if field not in others)
    return rows, alone


def other_differences(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """What no recipe says and what differs: the weights of the base, the table of images, versions of packages."""
    rows = [("images and their scores (key)", [side.run.images.key[:12] for side in sides])]
    of_model = [_newest(side) for side in sides]
    rows.append(("weights of the base (fingerprint)", [_fingerprint(side) for side in sides]))
    packages = dict.fromkeys(name for found in of_model if found for name in found.versions)
    rows += [(name, [found.versions.get(name, "–") if found else "–" for found in of_model]) for name in packages]
    commits = [(found.git_commit or "–")[:12] if found else "–" for found in of_model]
    rows.append(("commit of WhyScore", commits))
    return [(name, values) for name, values in rows if len(set(values)) > 1]


class StageCost(NamedTuple):
    """What the artifacts of one stage took; `shared` is the part that another of the runs uses too."""

    stage: str
    artifacts: int
    seconds: float
    shared: float


def costs(side: Side, others: Sequence[Side]) -> list[StageCost]:
    """Seconds by stage, the dearest first, from the manifests of everything that a run needs."""
    elsewhere = {(other.run.store.root, address) for other in others for address in other.manifests}
    found: dict[str, StageCost] = {}
    for address, manifest in side.manifests.items():
        stage = address.split("/")[1]
        known = found.get(stage, StageCost(stage, 0, 0.0, 0.0))
        also = manifest.seconds if (side.run.store.root, address) in elsewhere else 0.0
        found[stage] = StageCost(stage, known.artifacts + 1, known.seconds + manifest.seconds, known.shared + also)
    return sorted(found.values(), key=lambda cost: -cost.seconds)


def trained_on_items_of(side: Side, other: Side) -> dict[str, int]:
    """How many images that `other` was measured on are among the training images of `side`, by data set."""
    table = side.run.store.read_table(side.run.images.address, "images")
    if "image_sha256" not in table.column_names:
        return {}
    splits = table["split"].to_pylist() if "split" in table.column_names else ["train"] * len(table)
    trained = {
        digest for digest, split in zip(table["image_sha256"].to_pylist(), splits, strict=True) if split == "train"
    }
    found = {}
    for measured in other.measured.get(other.model, ()):
        if measured.items == "images":
            found[measured.data] = sum(item.rpartition(" ")[0] in trained for item in measured.ids)
    return {data: count for data, count in found.items() if count}


def _side(letter: str, run: RunFolder) -> Side:
    models = run.models()
    if not models:
        raise StoreError(f"run {run.name} in {run.store.root} has no measured model yet; run its recipe first")
    line = _main_line(models)
    base = next((model for model in line if model.iteration == 0), None)
    verdict, ends = verdict_of_run(run), run.ends()
    if verdict and verdict.best:
        model, why = RunModel(verdict.best.iteration, verdict.best.kind), f"the best, with {verdict.best.rule}"
    elif ends:
        model, why = ends[1], "the one that the run ended with"
    else:
        model, why = line[-1], "the newest: the run has not ended"
    compared = line if model in line else [*line, model]
    pointers = run.pointers()
    manifests = reachable(run.store, {address for pointer in pointers.values() for address in references(pointer)})
    return Side(
        letter, run, base, model, why, {each: measured_of(run, each) for each in compared}, _trainings(run), manifests
    )


def _main_line(models: Sequence[RunModel]) -> list[RunModel]:
    """The model of each iteration that the next one starts from: the merged one where there are branches."""
    line: dict[int, RunModel] = {}
    for model in models:
        if model.iteration not in line or model.kind == "merged":
            line[model.iteration] = model
    return [line[iteration] for iteration in sorted(line)]


def _trainings(run: RunFolder) -> list[Training]:
    found = []
    for role in sorted(run.pointers("")):
        folder, _, name = role.rpartition("/")
        iteration, _, kind = folder.partition("/")
        if name != "adapter" or not iteration.startswith("iteration-") or "/" in kind:
            continue
        ref = run.find(role)
        manifest = run.store.lookup(ref.address) if ref else None
        if ref and isinstance(manifest, Manifest) and "training_log" in manifest.tables:
            log = run.store.read_table(ref.address, "training_log")
            found.append(Training(RunModel(int(iteration.removeprefix("iteration-")), kind), log))
    return found


def _figures(sides: Sequence[Side]) -> list[Compared]:
    """The figures of the compared models, those of the first run first; those of the same items are one figure."""
    found: list[tuple[Measured, Figure, dict[str, tuple[str, str]]]] = []
    for side in sides:
        taken: set[int] = set()
        for measured in side.measured.get(side.model, ()):
            for figure in measured.figures:
                at = _like(found, measured, figure, taken)
                if at is None:
                    found.append((measured, figure, {}))
                    at = len(found) - 1
                taken.add(at)
                found[at][2][side.letter] = (measured.items, measured.data)
    several = len({measured.data for measured, _, _ in found if measured.items == found[0][0].items}) > 1
    return [
        Compared(
            measured.items,
            measured.data,
            figure.name,
            figure.heading + (f" on {measured.data}" if several and measured.data != found[0][0].data else ""),
            figure.decimals,
            figure.lower_is_better,
            places,
        )
        for measured, figure, places in found
    ]


def _like(
    found: Sequence[tuple[Measured, Figure, dict[str, tuple[str, str]]]],
    measured: Measured,
    figure: Figure,
    taken: set[int],
) -> int | None:
    """The figure of an earlier run that is of the most shared items; without any, the one of the same data set."""
    alike = [
        at
        for at, (of, known, _) in enumerate(found)
        if known.name == figure.name and of.items == measured.items and at not in taken
    ]
    overlap = {at: len(shared(found[at][0], measured)[0]) for at in alike}
    best = max(alike, key=lambda at: (overlap[at], found[at][0].data == measured.data), default=None)
    if best is None or (not overlap[best] and found[best][0].data != measured.data):
        return None
    return best


def _difference(one: Side, other: Side, compared: Compared, settings: Settings) -> Difference:
    sets = [_found(side, compared) for side in (one, other)]
    if sets[0] is None or sets[1] is None:
        missing = [side.letter for side, found in zip((one, other), sets, strict=True) if found is None]
        return Difference(UNDEFINED, "not compared", f"{' and '.join(missing)}: not measured")
    return difference(sets[0], sets[1], compared.figure, settings)


def _found(side: Side, compared: Compared) -> Measured | None:
    place = compared.places.get(side.letter)
    return next(
        (
            measured
            for measured in side.measured[side.model]
            if (measured.items, measured.data) == place and measured.figure(compared.figure)
        ),
        None,
    )


def _newest(side: Side) -> Manifest | None:
    ref = side.run.find(side.model.role("predictions"))
    return side.manifests.get(ref.address) if ref else None


def _fingerprint(side: Side) -> str:
    """Of the base, as the evaluation of the model has it among its inputs."""
    found = _newest(side)
    return _first(found.arguments, "fingerprint")[:12] if found else "–"


def _first(value: Any, name: str) -> str:
    """The first value of a name anywhere in the arguments of a stage; a dash without one."""
    if isinstance(value, dict):
        if isinstance(value.get(name), str):
            return str(value[name])
        value = list(value.values())
    if isinstance(value, list):
        return next((found for part in value if (found := _first(part, name)) != "–"), "–")
    return "–"


def _completed(fields: dict[str, Any]) -> dict[str, Any]:
    """With today's defaults of fields that an earlier version did not have; unchanged if it is no recipe today."""
    try:
        return parse_recipe(copy.deepcopy(fields)).run_fields()
    except RecipeError:
        return fields


def _flat(fields: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, content in fields.items():
        if isinstance(content, dict) and content:
            flat |= _flat(content, f"{section}{name}.")
        else:
            flat[f"{section}{name}"] = content
    return flat


def _shown(content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}.."
