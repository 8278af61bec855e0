"""A file is digested again when it may have changed, and its content alone counts."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline_lib.data import sources
from pipeline_lib.data.sources import LocalFolder
from pipeline_lib.data.table import ImageList, fingerprint
from pipeline_lib.store import ArtifactStore

NAMES = ["0.jpg", "1.jpg", "below/2.jpg"]
Now = Callable[[], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(name[-5:].encode())
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    names: list[str] = []
    read = LocalFolder.read

    def noting(self: LocalFolder, image: str) -> bytes:
        names.append(image)
        return read(self, image)

    monkeypatch.setattr(LocalFolder, "read", noting)
    return names


@pytest.fixture
def now(folder: Path, store: ArtifactStore, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> Now:
    """The fingerprint at the moment; every file counts as written long ago."""
    monkeypatch.setattr(sources, "SETTLED_S", -1.0)

    def fingerprint_now() -> str:
        opened.clear()
        time.sleep(0.02)  # the clock of a file system may move in steps of some milliseconds
        return fingerprint(images(folder), store)

    return fingerprint_now


def images(folder: Path) -> ImageList:
    return ImageList(pd.DataFrame({"image": NAMES, "split": "train", "group": NAMES}), LocalFolder(str(folder)))


def replace(path: Path, content: bytes) -> None:
    """Other bytes under the same path, of the same size and with the same time."""
    facts = path.stat()
    assert facts.st_size == len(content)
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_an_image_replaced_by_one_of_the_same_size_is_another_one(now: Now, folder: Path, opened: list[str]) -> None:
    before = now()
    assert sorted(opened) == NAMES
    replace(folder / "1.jpg", b"other")
    after = now()
    assert after != before and opened == ["1.jpg"]
    replace(folder / "1.jpg", b"1.jpg")
    assert now() == before


def test_nothing_is_read_again_without_a_change(now: Now, opened: list[str]) -> None:
    before = now()
    assert now() == before and opened == []


def test_a_touched_or_moved_image_is_the_same(now: Now, folder: Path, store: ArtifactStore, opened: list[str]) -> None:
    before = now()
    (folder / "0.jpg").touch()
    assert now() == before and opened == ["0.jpg"]
    assert now() == before and opened == []
    shutil.copytree(folder, folder.with_name("copy"))
    assert fingerprint(images(folder.with_name("copy")), store) == before == now()


def test_a_missing_image_counts_and_is_looked_for_again(now: Now, folder: Path) -> None:
    before = now()
    (folder / "0.jpg").unlink()
    assert now() != before
    (folder / "0.jpg").write_bytes(b"0.jpg")
    assert now() == before


def test_an_image_that_was_just_written_is_read_again(folder: Path, store: ArtifactStore, opened: list[str]) -> None:
    """It may change once more without another time."""
    before = fingerprint(images(folder), store)
    replace(folder / "1.jpg", b"other")
    assert fingerprint(images(folder), store) != before and sorted(opened) == sorted(2 * NAMES)


def test_damaged_digests_only_cost_time(now: Now, store: ArtifactStore, opened: list[str]) -> None:
    before = now()
    (file,) = Path(store.path("image_digests")).iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert now() == before and sorted(opened) == NAMES
    assert now() == before and opened == []


def test_a_plan_writes_nothing(now: Now, folder: Path, store: ArtifactStore) -> None:
    planned = fingerprint(images(folder), store, keep=False)
    assert not Path(store.root).exists()
    assert planned == now() == fingerprint(images(folder))
