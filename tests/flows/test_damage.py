"""Every artifact of a finished run is damaged, one at a time; the next run ends with the undamaged run's digests.

A stage that needs the damaged artifact is removed first, because digests are checked where bytes are used.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.gc import references

DAMAGES = ("swapped", "flipped", "truncated", "emptied", "re-addressed")

UNUSED = {"keep_anchors"}
"""Stages whose artifact no other stage of the run reads; `whyscore rejudge` does."""

NOT_READ = {("discretize", "unreadable_images.parquet")}
"""Files that the stage which is computed again does not read: the damage stays, and `verify` names it."""


class Damaged(NamedTuple):
    address: str
    file: str


def test_every_artifact_once(again, run_flow):
    """Each artifact gets one kind of damage, and each kind comes in turn."""
    damage_and_run(again, run_flow, lambda number: [DAMAGES[number % len(DAMAGES)]])


@pytest.mark.only_with("--all-moments")
def test_every_artifact_in_every_way(again, run_flow):
    damage_and_run(again, run_flow, lambda number: DAMAGES)


def damage_and_run(recipe, run_flow, kinds):
    store = ArtifactStore(recipe.runtime.store)
    before = manifests(store)
    whole = {address: manifest.files for address, manifest in before.items()}
    copies = report_of(store)
    for number, address in enumerate(before):
        for kind in kinds(number):
            for damaged in damage(store, before, address, kind):
                what = f"{damaged.file} of {address.split('/')[1]} {kind}"
                watched = run_flow(recipe)
                assert report_of(store) == copies, what
                if left := [problem for at in before for problem in store.verify(at)]:
                    print("LEFT", address.split("/")[1], damaged.file, left, watched.computed)
                    run_flow(recipe)
                    store.retract(address)
                    run_flow(recipe)
                after = manifests(store)
                assert {at: manifest.files for at, manifest in after.items()} == whole, what
                assert [problem for at in after for problem in store.verify(at)] == [], what
                before = after
    assert run_flow(recipe).computed == []


def damage(store, before, address, kind) -> Iterator[Damaged]:
    """Damage one artifact, and say where; twice or more where each of its files is damaged in turn."""
    manifest, folder = before[address], Path(store.path(address))
    if kind == "swapped":
        others = list(before)
        other = others[(others.index(address) + 1) % len(others)]
        aside = folder.with_name("aside")
        shutil.move(folder, aside)
        shutil.move(store.path(other), folder)
        shutil.move(aside, store.path(other))
        yield Damaged(address, "manifest.json")
    elif kind == "re-addressed":  # by someone who seals it again
        other = manifest.model_copy(update={"address": f"{address[:-1]}{'1' if address[-1] == '0' else '0'}"})
        (folder / "manifest.json").write_text(other.sealed().model_dump_json())
        yield Damaged(address, "manifest.json")
    else:
        for name in manifest.files if kind == "flipped" else [max(manifest.files)]:
            manifest = store.lookup(address)
            assert isinstance(manifest, Manifest)
            file = folder / manifest.attempt / name
            content = bytearray(file.read_bytes())
            if kind == "flipped":
                content[len(content) // 2] ^= 1
                remove_a_reader(store, before, address)
            file.write_bytes(content if kind == "flipped" else content[:-1] if kind == "truncated" else b"")
            yield Damaged(address, name)


def remove_a_reader(store, before, address):
    """Remove the fastest of the stages that were computed from an artifact, if there is one."""
    readers = [found for found in before.values() if address in set(references(found.arguments))]
    if readers:
        store.retract(min(readers, key=lambda manifest: manifest.seconds).address)


def manifests(store) -> dict[str, Manifest]:
    """The artifacts of stages, in the order of their addresses."""
    found = {at: store.lookup(at) for at in store.addresses() if at.startswith("steps/") and at.count("/") == 2}
    assert all(isinstance(manifest, Manifest) for manifest in found.values())
    return found


def report_of(store) -> dict[str, bytes]:
    folder = Path(store.path("runs/small/report"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}
