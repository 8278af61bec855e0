"""Find and remove what no run of a store needs.

A run needs the artifacts that its pointers name, and everything that those were made from: an artifact's manifest holds
the references in its arguments, and lists its scratch folders (shards, checkpoints). Nothing is removed before
everything is known, and an unreadable file stops it.

The state after a crash in the middle: some of it is left for the next time. An artifact's manifest goes first.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pipeline_lib.errors import StoreError
from pipeline_lib.store import runs
from pipeline_lib.store.key import read_reference
from pipeline_lib.store.manifest import Manifest
from pipeline_lib.store.store import ArtifactStore

EARLIER = {
    "prefect": "Prefect's records of an earlier version",
    "answers": "shards of an earlier version",
    "other_explanations": "shards of an earlier version",
}
"""Folders at the top of a store that earlier versions wrote and that nothing reads now."""

DAY_S = 86400.0

_HEAL = "run its recipe again, which replaces it, or forget the run"
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}$|^probe-[0-9a-f]{32}$")


class Removal(NamedTuple):
    """One thing to remove: a file, or a folder with its content at the time of the look."""

    kind: str
    path: str
    files: tuple[str, ...]  # below the folder; empty for a file
    size: int


def garbage(store: ArtifactStore, older_than_days: float, forget: Iterable[str] = ()) -> list[Removal]:
    """Everything that can be removed: files older than so many days that no run needs, and the runs to forget.

    Shards and checkpoints of a finished stage go after a day at most. Verdicts of judge models (`judge_cache/`),
    digests of images (`image_digests/`) and files outside the store's layout always stay. Raises `StoreError` when a
    run's pointer or a manifest cannot be read, or a pointer names a missing artifact: its needs are then unknown.
    """
    found = store.files.times(store.root)
    forgotten: dict[str, dict[str, tuple[int, float]]] = {name: {} for name in forget}
    for path in list(found):
        if (name := runs.name_of(path)) in forgotten:
            forgotten[name][path] = found.pop(path)
    now = time.time()
    limit, limit_of_parts = (now - days * DAY_S for days in (older_than_days, min(older_than_days, 1.0)))

    folders: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)  # artifacts and folders of shards
    earlier: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    removals = [
        _folder("runs to forget", at, {path.removeprefix(f"{at}/"): facts for path, facts in files.items()})
        for at, files in ((runs.folder_of(name), files) for name, files in forgotten.items())
    ]
    for path, facts in found.items():
        top, *rest = path.split("/")
        if top in ("steps", "scratch") and len(rest) > 2:
            folders["/".join([top, *rest[:2]])]["/".join(rest[2:])] = facts
        elif _TEMPORARY.search(path) and facts[1] <= limit:
            removals.append(Removal("temporary files", path, (), facts[0]))
        elif top in EARLIER:
            earlier[top][path.removeprefix(f"{top}/")] = facts
    removals += [_folder(EARLIER[top], top, files) for top, files in earlier.items() if _newest(files) <= limit]

    artifacts = {address: files for address, files in folders.items() if address.startswith("steps/")}
    young = [
        address
        for address, files in artifacts.items()
        if "manifest.json" in files and files["manifest.json"][1] > limit
    ]
    pointed = pointed_at(store, found)
    needed = reachable(store, [*pointed, *young])
    for address, pointer in pointed.items():
        if address not in needed:
            raise StoreError(
                f"{store.path(pointer)} names {address}, which is not in the store, so it is not known what that run"
                f" needs; {_HEAL}"
            )
    scratch = {"/".join(folder.split("/")[:3]) for manifest in needed.values() for folder in manifest.scratch}

    for address, files in folders.items():
        if not address.startswith("steps/"):
            if address not in scratch and _newest(files) <= limit:
                removals.append(_folder("shards of no run", address, files))
        elif address in needed:
            removals += _inside(address, files, needed[address], limit, limit_of_parts)
        elif "manifest.json" in files and _newest(files) <= limit:
            removals.append(_folder("artifacts of no run", address, files))
        elif "manifest.json" not in files and _newest(files) <= limit:
            removals.append(_folder("unfinished stages", address, files))
    return removals


def remove(store: ArtifactStore, removals: Iterable[Removal]) -> None:
    """Remove what `garbage` found; a folder that was written to since then stays. Raises `StoreError` if refused."""
    for removal in removals:
        path = store.path(removal.path)
        try:
            if not removal.files:
                store.files.remove(path)
                continue
            if set(store.files.sizes(path)) - set(removal.files):
                continue
            store.retract(removal.path)
            left = bool(store.files.sizes(path))
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror or error}") from error
        if left:
            raise StoreError(f"cannot remove {path}; may this user write there?")


def pointed_at(store: ArtifactStore, files: Iterable[str]) -> dict[str, str]:
    """The artifacts that the pointers of all runs name, each with one of these pointers; `files` are the store's."""
    found: dict[str, str] = {}
    for path, pointer in runs.read_pointers(store, files):
        if pointer is None:
            raise StoreError(f"{store.path(path)} cannot be read, so it is not known what that run needs; {_HEAL}")
        found |= dict.fromkeys(references(pointer), path)
    return found


def reachable(store: ArtifactStore, addresses: Iterable[str]) -> dict[str, Manifest]:
    """The manifests of these artifacts and of all that they were made from, as far as the store has them."""
    known: dict[str, Manifest] = {}
    asked, wanted = set[str](), set(addresses)
    with ThreadPoolExecutor(runs.READERS) as pool:
        while wanted:
            asked |= wanted
            manifests = [manifest for manifest in pool.map(lambda at: read_manifest(store, at), wanted) if manifest]
            known |= {manifest.address: manifest for manifest in manifests}
            wanted = {address for manifest in manifests for address in references(manifest.arguments)} - asked
    return known


def read_manifest(store: ArtifactStore, address: str) -> Manifest | None:
    """A manifest, without checking its files; None when there is none. Raises `StoreError` when it is unreadable."""
    path = store.path(address, "manifest.json")
    try:
        manifest = Manifest.model_validate_json(store.files.read(path))
        if manifest.address != address:
            raise ValueError(f"it is that of {manifest.address}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}), so it is not known what it was made from; run the recipe"
            " again, which replaces it, or remove that folder"
        ) from error
    return manifest


def references(value: Any) -> Iterator[str]:
    """Addresses of all artifacts that a manifest's arguments, or a pointer, name anywhere.

    Raises `StoreError` for a name outside the store.
    """
    if isinstance(value, dict):
        stage, key = value.get("stage"), value.get("key")
        if isinstance(stage, str) and isinstance(key, str):
            yield read_reference(value).address
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def _inside(
    address: str, files: dict[str, tuple[int, float]], manifest: Manifest, limit: float, limit_of_parts: float
) -> Iterator[Removal]:
    """The parts of a needed artifact's folder that it no longer needs."""
    inner: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    complete = all(
        files.get(f"{manifest.attempt}/{name}", (-1,))[0] == entry.size for name, entry in manifest.files.items()
    )
    for path, facts in files.items():
        top, _, rest = path.partition("/")
        if not rest and _TEMPORARY.search(path) and facts[1] <= limit:
            yield Removal("temporary files", f"{address}/{path}", (), facts[0])
        if rest and top != manifest.attempt:
            inner[top][rest] = facts
    for top, found in inner.items():
        if f"{address}/{top}" in manifest.scratch:
            if complete and _newest(found) <= limit_of_parts:
                yield _folder(f"{top} of finished stages", f"{address}/{top}", found)
        elif _newest(found) <= limit:
            yield _folder("attempts that were not published", f"{address}/{top}", found)


def _folder(kind: str, path: str, files: dict[str, tuple[int, float]]) -> Removal:
    return Removal(kind, path, tuple(files), sum(size for size, _ in files.values()))


def _newest(files: dict[str, tuple[int, float]]) -> float:
    return max(written for _, written in files.values())
