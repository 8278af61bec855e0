"""Every artifact of a finished run is damaged, one at a time; the next run ends with the undamaged run's digests.

A stage that needs the damaged artifact is removed first, because digests are checked where bytes are used.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline_lib.errors import LostArtifactError, WhyScoreError
from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.gc import references
from pipeline_lib.store.key import key_fields
from tasks.stage import Work
from tests.flows.test_resume import STAGES

DAMAGES = ("swapped", "flipped", "truncated", "emptied", "re-addressed")

READ_BY_THE_REPORT = {
    "bins.parquet",
    "judge_holdout.parquet",
    "metrics.parquet",
    "reference_values.parquet",
    "training_log.parquet",
    "unreadable_images.parquet",
    "verdicts.parquet",
}
"""Files that no other stage is sure to read."""

UNREAD = {"model_facts.json", "anchors.parquet", "faithfulness.parquet"}
"""Files that no stage reads: they are for people, and for `whyscore rejudge`."""


class Damaged(NamedTuple):
    address: str
    file: str


def test_one_of_each_kind(again, run_flow):
    store = ArtifactStore(again.runtime.store)
    for kind, stage in zip(DAMAGES, ("judge", "swap", "ties_merge", "fit_judge", "discretize"), strict=True):
        damage_and_run(again, run_flow, f"steps/{stage}/{store.children(f'steps/{stage}')[0]}", kind)
    assert run_flow(again).computed == []


def test_a_damaged_report_is_made_again_before_it_is_copied(again, run_flow):
    store = ArtifactStore(again.runtime.store)
    before = report_of(store)
    address = f"steps/report/{store.children('steps/report')[0]}"
    (file,) = Path(store.path(address)).glob("*/results.txt")
    file.write_text(file.read_text().replace("0.", "9."))
    assert run_flow(again).computed == ["report"]
    assert report_of(store) == before


def test_damage_that_a_worker_of_the_gpu_pool_finds(again, run_flow, monkeypatch):
    """The worker removes the input and fails; the waiting flow, which knows the input's stage, has it computed."""
    store = ArtifactStore(again.runtime.store)
    before = manifests(store)
    trained, swapped = (f"steps/{s}/{store.children(f'steps/{s}')[0]}" for s in ("train_consistency", "swap"))

    def in_pool(deployment, body, runtime, ref, label, arguments):
        try:
            with store.attempt() as attempt:
                body(Work(store, ref.address, attempt, runtime, label), **arguments)
                store.publish(ref.address, attempt, key_fields(arguments))
        except LostArtifactError as error:  # all that is known of a run elsewhere is its message
            raise WhyScoreError(f"{label}: run in the GPU pool ended as Failed: {error}") from None

    monkeypatch.setattr("tasks.stage.decorator.pool_deployment", lambda: "pool")
    monkeypatch.setattr("tasks.stage.decorator.compute_in_pool", in_pool)
    store.retract(trained)
    (file,) = Path(store.path(swapped)).glob("*/consistency_pairs.parquet")
    file.write_bytes(bytes(file.stat().st_size))
    assert run_flow(again).computed == ["ite-2 train_consistency", "ite-2 swap"]
    assert {at: found.files for at, found in manifests(store).items()} == {at: f.files for at, f in before.items()}


@pytest.mark.only_with("--all-moments")
@pytest.mark.timeout(1800)
def test_every_artifact_once(again, run_flow):
    """Each artifact gets one kind of damage, and each kind comes in turn."""
    addresses = list(manifests(ArtifactStore(again.runtime.store)))
    for number, address in enumerate(addresses):
        damage_and_run(again, run_flow, address, DAMAGES[number % len(DAMAGES)])
    assert run_flow(again).computed == []


@pytest.mark.only_with("--all-moments")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("stage", sorted({stage.split()[-1] for stage in STAGES}))
def test_every_artifact_in_every_way(again, run_flow, stage, kind):
    for address in manifests(ArtifactStore(again.runtime.store)):
        if address.split("/")[1] == stage:
            damage_and_run(again, run_flow, address, kind)


def damage_and_run(recipe, run_flow, address, kind):
    store = ArtifactStore(recipe.runtime.store)
    before, copies = manifests(store), report_of(store)
    for damaged in damage(store, before, address, kind):
        what = f"{damaged.file} of {address.split('/')[1]} {kind}"
        watched = run_flow(recipe)
        assert report_of(store) == copies, what
        if kind == "flipped" and damaged.file in UNREAD:
            (problem,) = store.verify(address)
            assert damaged.file in problem, what
            with pytest.raises(LostArtifactError, match=damaged.file):  # and now it is removed
                store.read_file(address, damaged.file)
            watched = run_flow(recipe)
        assert watched.computed, what
        after = manifests(store)
        assert {at: found.files for at, found in after.items()} == {at: found.files for at, found in before.items()}, (
            what
        )
        assert [problem for at in after for problem in store.verify(at)] == [], what


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
                remove_a_reader(store, before, address, name)
            file.write_bytes(content if kind == "flipped" else content[:-1] if kind == "truncated" else b"")
            yield Damaged(address, name)


def remove_a_reader(store, before, address, name):
    """Remove the fastest of the stages that read a file, if there is one."""
    readers = [found for found in before.values() if address in set(references(found.arguments))]
    if name in READ_BY_THE_REPORT:
        readers = [found for found in readers if found.address.startswith("steps/report/")]
    if readers and name not in UNREAD:
        reader = min(readers, key=lambda manifest: manifest.seconds)
        store.retract(reader.address)
        for folder in reader.scratch:  # else its answers are there, and no model is loaded
            store.files.remove_folder(store.path(folder))


def manifests(store) -> dict[str, Manifest]:
    """The artifacts of stages, in the order of their addresses."""
    found = {at: store.lookup(at) for at in store.addresses() if at.startswith("steps/") and at.count("/") == 2}
    assert all(isinstance(manifest, Manifest) for manifest in found.values())
    return found


def report_of(store) -> dict[str, bytes]:
    """The copies for people, but for the sentences on when and in what time they were made."""
    folder = Path(store.path("runs/small/report"))
    made = re.compile(rb"Made on [^<]* of computing[^<]*")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert made.search(found["report.html"])
    return {name: made.sub(b"", content) for name, content in found.items()}
