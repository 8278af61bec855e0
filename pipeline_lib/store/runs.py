"""The folder `runs/<name>/`: small JSON files (pointers) that name the artifacts of a run, and copies of reports.

`run.json` holds the recipe's fields, the table of images, and an id made from both. Each pointer holds that id; a
pointer with another id is from another recipe of the same name, and is not valid.

The state after a hard crash: `run.json` of the run that crashed, its pointers so far, and pointers of the run before
it. The next run of that recipe that ends removes the latter.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.store.key import ArtifactRef, canonical_json, read_reference
from pipeline_lib.store.store import ArtifactStore

READERS = 16

_TOP = "runs"
_RUN = "run"
_EVALUATED = re.compile(r"iteration-(\d+)/([a-z-]+)/predictions")
_ABSENT = object()


class RecipeOfRun(Protocol):
    """What a run's folder asks of a recipe."""

    @property
    def name(self) -> str:
        """The run's name."""

    def run_fields(self) -> dict[str, Any]:
        """All fields that can change the run's results."""

    def completed(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The run fields of an earlier version, with today's defaults for the fields that it did not have."""


class RunModel(NamedTuple):
    """A model of a run; iteration 0 is the base."""

    iteration: int
    kind: str

    @property
    def name(self) -> str:
        """Name of the model, e.g. `ite-2 merged`."""
        return f"ite-{self.iteration} {self.kind}" if self.iteration else self.kind

    def role(self, what: str) -> str:
        """The role of one of its artifacts, e.g. `adapter` or `predictions`."""
        return f"iteration-{self.iteration:02d}/{self.kind}/{what}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run as one recipe sees it: its `run_fields` and its table of images.

    A role is the path of a pointer without its ending, e.g. `iteration-02/merged/adapter`.
    """

    store: ArtifactStore
    name: str
    fields: dict[str, Any]
    images: ArtifactRef

    @functools.cached_property
    def id(self) -> str:
        """Sha256 over recipe and images (64 hex digits), which all pointers of the run hold."""
        return _sha256({"recipe": self.fields, "images": self.images.model_dump()})

    def begin(self) -> None:
        """Write `run.json`: from now on no pointer of another recipe is valid."""
        value = {
            "run": self.id,
            "recipe_sha256": _sha256(self.fields),
            "recipe": self.fields,
            "images": {"address": self.images.address, **self.images.model_dump()},
        }
        self.store.write_pointer(_pointer(self.name, _RUN), value)

    def keep(self, role: str, ref: ArtifactRef, **more: Any) -> ArtifactRef:
        """Write the pointer of a role; `more` are further fields of it. Returns the reference itself."""
        pointer = {**more, "address": ref.address, **ref.model_dump(), "run": self.id}
        self.store.write_pointer(_pointer(self.name, role), pointer)
        return ref

    def read(self, role: str) -> dict[str, Any] | None:
        """The pointer of a role with all its fields; None when this run has none."""
        pointer = self.store.read_pointer(_pointer(self.name, role))
        return pointer if pointer is not None and pointer.get("run") == self.id else None

    def find(self, role: str) -> ArtifactRef | None:
        """The artifact of a role; None when there is none. Raises `StoreError` for a pointer without an artifact."""
        pointer = self.read(role)
        return None if pointer is None else read_reference(pointer)

    def pointers(self, below: str = "") -> dict[str, dict[str, Any]]:
        """All pointers of this run below a folder of it, by their roles."""
        found = self._everything(below).items()
        return {role: pointer for role, pointer in found if pointer is not None and pointer.get("run") == self.id}

    def models(self) -> list[RunModel]:
        """The models that were evaluated, by iteration and then by kind."""
        return models_of(self.pointers())

    def ends(self) -> tuple[RunModel, RunModel] | None:
        """The base and the model that the run ended with (role `model`); None unless both were evaluated."""
        models, last = self.models(), self.find("model")
        base = [model for model in models if model.iteration == 0]
        final = [model for model in models if last is not None and self.find(model.role("adapter")) == last]
        return (base[0], final[0]) if base and final else None

    def copy_out(self, ref: ArtifactRef, folder: str, change: Callable[[str, bytes], bytes] | None = None) -> None:
        """Copy the files of an artifact into a folder of the run, for people; `change` as in the store's `copy_out`."""
        self.store.copy_out(ref.address, f"{folder_of(self.name)}/{folder}", *([change] if change else []))

    def check(self, recipe: RecipeOfRun, besides: Collection[str] = ()) -> None:
        """Raise `RecipeError` unless a recipe's fields are those of this run.

        A field that did not exist when the run was made had its default. `besides` names sections (`judge.openai`)
        that may differ.
        """
        fields = recipe.run_fields()
        differ = {field for field, _, _ in _differences(recipe.completed(self.fields), fields)}
        differences = [
            f"{field} is {_shown(now)}, it was {_shown(then)}"
            for field, then, now in _differences(self.fields, fields)
            if field in differ and not any(field == name or field.startswith(f"{name}.") for name in besides)
        ]
        if differences:
            raise RecipeError(
                f"run {self.name} in {self.store.root} is of another recipe ({'; '.join(differences)}): give that one,"
                " or `whyscore run` this one first; finished stages are cached"
            )

    def end(self) -> None:
        """Remove the pointers of other recipes, unless another recipe has begun meanwhile."""
        now = read_run(self.store, self.name)
        if now is None or now.id != self.id:
            return
        for role, pointer in self._everything().items():
            if pointer is None or pointer.get("run") != self.id:
                self.store.files.remove(self.store.path(_pointer(self.name, role)))

    def _everything(self, below: str = "") -> dict[str, dict[str, Any] | None]:
        """All pointers of the folder, of whatever run, by their roles; None: unreadable."""
        folder = f"{folder_of(self.name)}/{below}".rstrip("/")
        paths = [f"{folder}/{path}" for path in self.store.pointers(folder)]
        return {
            role: pointer
            for path, pointer in read_pointers(self.store, paths)
            if (role := path.removeprefix(f"{folder_of(self.name)}/").removesuffix(".json")) != _RUN
        }


def read_run(store: ArtifactStore, name: str) -> RunFolder | None:
    """The current run of a folder; None without a readable `run.json`."""
    found = store.read_pointer(_pointer(name, _RUN)) or {}
    if not isinstance(found.get("recipe"), dict) or not isinstance(found.get("images"), dict):
        return None
    return RunFolder(store, name, found["recipe"], read_reference(found["images"]))


def open_run(store: ArtifactStore, recipe: RecipeOfRun, besides: Collection[str] = ()) -> RunFolder:
    """The run of a recipe, whose sections in `besides` may differ.

    Raises `StoreError` when the store has nothing of it, or an earlier version wrote it, without its recipe;
    `RecipeError` that names the differing fields when the run is of another recipe.
    """
    name = recipe.name
    run = read_run(store, name)
    if run is None:
        known = names(store)
        if name not in known:
            there = f"; there are {', '.join(known)}" if known else ", and no other"
            raise StoreError(f"{store.root} has nothing of a run {name} yet{there}")
        raise StoreError(
            f"{store.root} does not say which recipe run {name} is of: its run.json is damaged, or an earlier version"
            " wrote the run. `whyscore run` the recipe; finished stages are cached"
        )
    run.check(recipe, besides)
    return run


def last_pointers(store: ArtifactStore, name: str) -> dict[str, ArtifactRef]:
    """The artifact of every role in a run's folder, whichever recipe it is of; unreadable pointers are left out."""
    folder = folder_of(name)
    paths = [f"{folder}/{path}" for path in store.pointers(folder)]
    return {
        path.removeprefix(f"{folder}/").removesuffix(".json"): read_reference(pointer)
        for path, pointer in read_pointers(store, paths)
        if pointer is not None and "key" in pointer
    }


def written(store: ArtifactStore) -> dict[str, dict[str, tuple[int, float]]]:
    """The files in the folder of each run, by their paths there, with size and time of writing."""
    found: dict[str, dict[str, tuple[int, float]]] = {}
    for path, facts in store.files.times(store.path(_TOP)).items():
        name, slash, rest = path.partition("/")
        if slash:
            found.setdefault(name, {})[rest] = facts
    return found


def names(store: ArtifactStore) -> list[str]:
    """The names of the runs in a store, sorted."""
    return store.children(_TOP)


def name_of(path: str) -> str | None:
    """The run that a file of the store belongs to; None for other files."""
    top, _, rest = path.partition("/")
    name, slash, _ = rest.partition("/")
    return name if top == _TOP and slash else None


def copied(store: ArtifactStore, name: str, folder: str, file: str) -> str:
    """Full path of a file that `copy_out` put into a folder of a run."""
    return store.path(folder_of(name), folder, file)


def read_pointers(store: ArtifactStore, paths: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The pointers of runs among some files of a store, `run.json` included, with their content; None: unreadable."""
    pointers = sorted(path for path in paths if name_of(path) and path.endswith(".json"))
    with ThreadPoolExecutor(READERS) as pool:
        yield from zip(pointers, pool.map(store.read_pointer, pointers), strict=True)


def control_name(name: str) -> str:
    """The name of the negative control of a run."""
    return f"{name}-control"


def seed_name(name: str, seed: int) -> str:
    """The name of a recipe's run with one of several seeds."""
    return f"{name}-seed-{seed}"


def seeds_name(name: str) -> str:
    """The name of the comparison of a recipe's runs with several seeds."""
    return f"{name}-seeds"


def belonging_to(name: str, known: Iterable[str]) -> list[str]:
    """Those of some runs that belong to a recipe: its run, its seeds, their comparison and all controls, sorted."""
    pattern = re.compile(re.escape(name) + r"(-seed-\d+)?(-control)?|" + re.escape(seeds_name(name)))
    return sorted(other for other in known if pattern.fullmatch(other))


def models_of(roles: Iterable[str]) -> list[RunModel]:
    """The models that were evaluated according to some roles of a run, by iteration and then by kind."""
    matches = map(_EVALUATED.fullmatch, roles)
    return sorted(RunModel(int(match[1]), match[2]) for match in matches if match)


def folder_of(name: str) -> str:
    """The address of a run's folder."""
    return f"{_TOP}/{name}"


def _pointer(name: str, role: str) -> str:
    return f"{folder_of(name)}/{role}.json"


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _differences(then: dict[str, Any], now: dict[str, Any], section: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the fields that differ, with both values; `_ABSENT` where a recipe has no such field."""
    for name in sorted({*then, *now}):
        before, after = then.get(name, _ABSENT), now.get(name, _ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{section}{name}.")
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            then_by_place = {str(place): item for place, item in enumerate(before)}
            now_by_place = {str(place): item for place, item in enumerate(after)}
            yield from _differences(then_by_place, now_by_place, f"{section}{name}.")
        elif before != after and not _same_file(before, after):
            yield f"{section}{name}", before, after


def _same_file(one: Any, two: Any) -> bool:
    """Whether two values are paths of one file or folder: `recipes/../data/a.csv` is `data/a.csv`."""
    return (
        isinstance(one, str)
        and isinstance(two, str)
        and os.path.exists(one)
        and os.path.realpath(one) == os.path.realpath(two)
    )


def _shown(value: Any) -> str:
    return "not a field" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
