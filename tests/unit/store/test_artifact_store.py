"""The contract of every store, a folder or a bucket: what is damaged is a miss that says why, nothing is half there."""

import errno
import json
import multiprocessing
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from pipeline_lib.errors import LostArtifactError, StoreError
from pipeline_lib.store import ArtifactStore, Manifest, Miss
from pipeline_lib.store.key import read_reference
from pipeline_lib.tables.table import KNOWN, Table, conform

SCHEMA = pa.schema([pa.field("image", pa.string(), nullable=False), pa.field("score", pa.float64())])
PAIRS = Table("pairs", 1, SCHEMA)
TABLE = pa.table({"image": ["a.jpg", "b.jpg"], "score": [1.5, None]})
AT = "steps/generate/k"


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """tests/s3/test_contract.py runs the same tests with another of these."""
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"))
    request.getfixturevalue("s3_server")
    bucket = f"store-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").call_s3("create_bucket", Bucket=bucket)
    return ArtifactStore(f"s3://{bucket}/prefix")


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def publish(store: ArtifactStore, address: str = AT, table: pa.Table = TABLE) -> Manifest:
    with store.attempt() as attempt:
        attempt.write_table(PAIRS, table)
        (attempt.folder / "more").mkdir()
        (attempt.folder / "more" / "note.txt").write_text("a note")
        return store.publish(address, attempt, {"seed": 1})


def file_of(store: ArtifactStore, manifest: Manifest, name: str = "pairs.parquet") -> str:
    return store.path(manifest.address, manifest.attempt, name)


def manifest_path(store: ArtifactStore, address: str = AT) -> str:
    return store.path(address, "manifest.json")


def reason(store: ArtifactStore, address: str = AT) -> str:
    found = store.lookup(address)
    assert isinstance(found, Miss)
    return found.reason


def test_what_was_published_is_found_read_fetched_and_verified(store: ArtifactStore, tmp_path: Path) -> None:
    assert reason(store) == "not computed yet"
    manifest = publish(store)
    assert store.lookup(AT) == manifest
    assert manifest.rows == {"pairs": 2} and manifest.arguments == {"seed": 1}
    assert sorted(manifest.files) == ["more/note.txt", "pairs.parquet"]
    assert store.read_table(AT, "pairs").equals(conform(TABLE, SCHEMA))
    assert store.fetch(AT, tmp_path / "local") == manifest
    assert (tmp_path / "local" / "more" / "note.txt").read_text() == "a note"
    assert store.verify(AT) == []
    with pytest.raises(StoreError, match=r"has no swap\.parquet; it has more/note\.txt, pairs\.parquet"):
        store.read_table(AT, "swap")


def test_a_missing_or_truncated_file_and_a_bad_manifest_are_misses_that_say_why(store: ArtifactStore) -> None:
    manifest = publish(store)
    content = store.files.read(file_of(store, manifest))
    store.files.write(file_of(store, manifest), content[:-1])
    assert reason(store) == f"damaged: pairs.parquet has {len(content) - 1} bytes instead of {len(content)}"
    with pytest.raises(StoreError, match=r"damaged: pairs\.parquet"):
        store.read_table(AT, "pairs")
    store.files.remove(file_of(store, manifest))
    assert reason(store) == "damaged: pairs.parquet is missing"
    assert store.verify(AT) == ["damaged: pairs.parquet is missing"]

    text = store.files.read(manifest_path(store))
    for torn in (b"", text[:100], b"[]", b"\xff"):
        store.files.write(manifest_path(store), torn)
        assert reason(store) == "damaged: its manifest cannot be read"


def test_a_table_of_another_version_is_a_miss_and_one_that_nobody_knows_is_not_judged(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(store)
    assert manifest.tables == {"pairs": 1} and store.lookup(AT) == manifest
    monkeypatch.setitem(KNOWN, "pairs", 2)
    monkeypatch.setitem(KNOWN, "of another artifact", 7)
    assert "pairs" in reason(store)
    with pytest.raises(StoreError):
        store.read_table(AT, "pairs")
    with monkeypatch.context() as later:
        later.delitem(KNOWN, "pairs")
        assert store.lookup(AT) == manifest
    with store.attempt() as attempt:
        (attempt.folder / "note.txt").write_text("computed again")
        again = store.publish(AT, attempt, {})
    assert store.lookup(AT) == again and again.tables == {}


def test_a_manifest_of_before_has_all_its_tables_at_version_1(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    fields = json.loads(store.files.read(manifest_path(store)))
    del fields["tables"], fields["scratch"], fields["seal"]
    store.files.write(manifest_path(store), json.dumps(fields | {"schema_version": 2}).encode())
    found = store.lookup(AT)
    assert isinstance(found, Manifest) and found.tables == {"pairs": 1} and found.scratch == []
    monkeypatch.setitem(KNOWN, "pairs", 2)
    assert "pairs" in reason(store)
    monkeypatch.setitem(KNOWN, "pairs", 1)
    store.files.write(manifest_path(store), json.dumps(fields | {"schema_version": 1}).encode())
    assert "schema version 1" in reason(store)


def test_publishing_replaces_a_damaged_artifact_and_keeps_a_sound_one(store: ArtifactStore) -> None:
    first = publish(store)
    assert publish(store) == first  # the second attempt is thrown away
    store.files.remove(file_of(store, first))
    second = publish(store)
    assert second.attempt != first.attempt and store.lookup(AT) == second
    assert store.verify(AT) == []
    assert [name for name in store.files.sizes(store.path(AT)) if "json" in name] == ["manifest.json"]


def test_damage_of_the_same_size_is_seen_by_every_reader(store: ArtifactStore, tmp_path: Path) -> None:
    manifest = publish(store)
    content = bytearray(store.files.read(file_of(store, manifest)))
    content[10] ^= 1
    store.files.write(file_of(store, manifest), bytes(content))
    assert isinstance(store.lookup(AT), Manifest)
    assert len(store.verify(AT)) == 1 and store.verify(AT)[0].startswith("damaged: pairs.parquet has sha256")
    store.files.write(store.path("runs/a/report/pairs.parquet"), b"the good one of before")
    for read in (
        lambda: store.read_table(AT, "pairs"),
        lambda: store.read_file(AT, "pairs.parquet"),
        lambda: store.fetch(AT, tmp_path / "local"),
        lambda: store.copy_out(AT, "runs/a/report"),
    ):
        with pytest.raises(LostArtifactError, match=r"pairs\.parquet is damaged") as caught:
            read()
        assert caught.value.address == AT
        assert reason(store) == "not computed yet"  # so that the next run computes it again
        manifest = publish(store)
        store.files.write(file_of(store, manifest), bytes(content))
    assert store.files.sizes(store.path("runs")) == {"a/report/pairs.parquet": len(b"the good one of before")}


@pytest.mark.parametrize("field", ["files", "rows", "tables", "arguments", "scratch", "seconds", "host", "seal"])
def test_a_manifest_that_was_changed_anywhere_is_damaged(store: ArtifactStore, field: str) -> None:
    manifest = publish(store)
    fields = json.loads(store.files.read(manifest_path(store)))
    other: dict[str, Any] = {"seconds": 7, "host": "x", "seal": "0" * 64, "scratch": ["scratch/a/b"]}
    store.files.write(manifest_path(store), json.dumps(fields | {field: other.get(field, {})}).encode())
    assert reason(store).startswith("damaged: its manifest")
    with pytest.raises(StoreError, match="its manifest"):
        store.read_table(AT, "pairs")
    assert publish(store).files == manifest.files  # it is replaced


def test_a_manifest_of_before_without_files_is_damaged(store: ArtifactStore) -> None:
    publish(store)
    fields = json.loads(store.files.read(manifest_path(store)))
    del fields["seal"]
    store.files.write(manifest_path(store), json.dumps(fields).encode())
    assert isinstance(store.lookup(AT), Manifest)
    store.files.write(manifest_path(store), json.dumps(fields | {"files": {}}).encode())
    assert reason(store) == "damaged: its manifest cannot be read"


def test_damage_on_the_way_is_not_damage_in_the_store(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, read = publish(store), store.files.read
    spoiled: list[bytes] = []

    def spoil(times: int) -> Callable[[str], bytes]:
        def once(path: str) -> bytes:
            content = read(path)
            if path.endswith("pairs.parquet") and len(spoiled) < times:
                spoiled.append(bytes(len(spoiled)) + content[len(spoiled) + 1 :])
                return spoiled[-1]
            return content

        return once

    monkeypatch.setattr(store.files, "read", spoil(1))
    assert store.read_table(AT, "pairs").num_rows == 2 and len(spoiled) == 1
    spoiled.clear()
    monkeypatch.setattr(store.files, "read", spoil(2))
    with pytest.raises(StoreError, match=r"pairs\.parquet.*different bytes.*Nothing was removed"):
        store.read_table(AT, "pairs")
    assert len(spoiled) == 2 and store.lookup(AT) == manifest and store.verify(AT) == []


def test_a_damaged_artifact_that_another_run_has_replaced_meanwhile_stays(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, replaced = publish(store), []
    store.files.write(file_of(store, damaged), bytes(damaged.files["pairs.parquet"].size))
    read = store.files.read

    def replace(path: str) -> bytes:
        content = read(path)
        if path.endswith("pairs.parquet") and not replaced:
            other = ArtifactStore(store.root)
            other.files.remove(manifest_path(store))
            replaced.append(publish(other))
        return content

    monkeypatch.setattr(store.files, "read", replace)
    with pytest.raises(LostArtifactError):
        store.read_table(AT, "pairs")
    assert store.lookup(AT) == replaced[0] and store.verify(AT) == []


def test_a_file_that_goes_while_it_is_read_is_a_lost_artifact(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, lookup = publish(store), store.lookup

    def look(address: str) -> Manifest | Miss:
        found = lookup(address)
        store.files.remove(file_of(store, manifest))
        return found

    monkeypatch.setattr(store, "lookup", look)
    with pytest.raises(LostArtifactError, match="missing"):
        store.read_table(AT, "pairs")


def test_equal_tables_give_equal_digests_and_other_tables_others(store: ArtifactStore) -> None:
    digests = [publish(store, f"{AT}{n}").digest for n in range(2)]
    parts = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    assert digests[0] == digests[1] == publish(store, f"{AT}2", parts).digest
    assert publish(store, f"{AT}3", TABLE.slice(0, 1)).digest != digests[0]


def _race(root: str, barrier: Any, queue: Any) -> None:
    store = ArtifactStore(root)
    mine = []
    for n in range(20):
        with store.attempt() as attempt:
            (attempt.folder / "file.txt").write_text(f"written by {os.getpid()}")
            barrier.wait()
            mine.append(store.publish(f"steps/s/{n}", attempt, {}).attempt)
    queue.put(mine)


def test_of_two_processes_that_publish_one_address_both_use_a_whole_artifact(store: ArtifactStore) -> None:
    context = multiprocessing.get_context("spawn")
    for n in range(10, 20):  # the second half stands there, and is damaged
        publish(store, f"steps/s/{n}")
        store.files.write(manifest_path(store, f"steps/s/{n}"), b"torn")
    barrier, queue = context.Barrier(2), context.Queue()
    both = [context.Process(target=_race, args=(store.root, barrier, queue)) for _ in range(2)]
    for process in both:
        process.start()
    used = [queue.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    alike = 20 if store.is_local else 10  # a bucket has no locks: both may put a whole one in a damaged one's place
    assert used[0][:alike] == used[1][:alike] and len(used[0]) == len(used[1]) == 20
    for n, attempts in enumerate(zip(*used, strict=True)):
        found = store.lookup(f"steps/s/{n}")
        assert isinstance(found, Manifest) and found.attempt in attempts
        assert store.verify(f"steps/s/{n}") == []
        names = store.files.sizes(store.path(f"steps/s/{n}"))
        assert [name for name in names if "json" in name] == ["manifest.json"]


def test_an_artifact_that_appears_while_another_run_looks_is_not_removed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest that was in the way is gone at the second look, and another run's comes right after it."""
    other = ArtifactStore(store.root)
    create, lookup, published = store.files.create_if_absent, store.lookup, []
    monkeypatch.setattr(store.files, "create_if_absent", lambda *given: bool(published) and create(*given))

    def look(address: str) -> Manifest | Miss:
        found = lookup(address)
        if not published:
            published.append(publish(other))
        return found

    monkeypatch.setattr(store, "lookup", look)
    assert publish(store) == published[0]
    assert other.lookup(AT) == published[0]


FULL_DISK = """
import sys, tempfile
from pathlib import Path
from typing import Any
from pipeline_lib.errors import StoreError
from pipeline_lib.store import ArtifactStore
store = ArtifactStore(sys.argv[1])
with store.attempt() as attempt:
    (attempt.folder / "small.txt").write_text("fits")
    (attempt.folder / "weights.bin").write_bytes(b"0" * (1 << 20))
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    try:
        store.publish("steps/train/k", attempt, {})
    except StoreError as error:
        print(error)
"""


def test_a_store_that_takes_no_more_bytes_shows_nothing_and_says_so(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert os.strerror(errno.EFBIG) in run.stdout
    assert "runtime.store" in run.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert reason(ArtifactStore(str(tmp_path)), "steps/train/k") == "not computed yet"


def test_a_full_disk_is_reported_as_one(folder: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline_lib.store.local_files.os.fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device"):
        publish(folder)
    assert [path for path in Path(folder.root).rglob("*") if path.is_file()] == []
    assert reason(folder) == "not computed yet"


def test_a_store_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = ArtifactStore(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreError, match=r"file/store.*Not a directory"):
        store.check_writable()
    with pytest.raises(StoreError, match=r"cannot publish steps/generate/k .*Not a directory"):
        publish(store)
    with pytest.raises(StoreError, match="s3://"):
        ArtifactStore("ftp://host/store")


def test_checking_that_a_store_can_be_written_leaves_it_empty(store: ArtifactStore) -> None:
    store.check_writable()
    assert store.files.sizes(store.root) == {}


def test_retracting_removes_the_manifest_first_and_then_everything(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    order = []

    def noted(remove: Callable[[str], None], path: str) -> None:
        order.append(path.rpartition("/")[2])
        remove(path)

    for name in ("remove", "remove_folder"):
        monkeypatch.setattr(store.files, name, partial(noted, getattr(store.files, name)))
    store.retract(AT)
    assert order == ["manifest.json", "k"]
    assert reason(store) == "not computed yet" and store.files.sizes(store.path(AT)) == {}
    store.retract(AT)  # nothing there is fine


def test_retracting_without_others_leaves_what_another_run_is_writing(store: ArtifactStore) -> None:
    publish(store)
    other = store.path(AT, "another", "pairs.parquet")
    store.files.write(other, b"half of it")
    store.retract(AT, others=False)
    assert reason(store) == "not computed yet"
    assert list(store.files.sizes(store.path(AT))) == ["another/pairs.parquet"]


def test_children_are_folders_in_order(store: ArtifactStore) -> None:
    assert store.children("steps/generate") == []
    for key in ("b", "a"):
        publish(store, f"steps/generate/{key}")
    store.files.write(store.path("steps/generate/stray.txt"), b"")
    assert store.children("steps/generate") == ["a", "b"]
    assert list(store.addresses()) == ["steps/generate/a", "steps/generate/b"]


def test_pointers_and_copies_for_people_are_replaced_by_the_newest(store: ArtifactStore) -> None:
    publish(store)
    for value in (1, 2):
        store.write_pointer("runs/demo/score_pairs.json", {"value": value})
        store.copy_out(AT, "runs/demo/report")
    assert json.loads(store.files.read(store.path("runs/demo/score_pairs.json"))) == {"value": 2}
    files = sorted(store.files.sizes(store.path("runs/demo")))
    assert files == ["report/more/note.txt", "report/pairs.parquet", "score_pairs.json"]


def test_a_store_says_where_it_is_and_what_doctor_wants_to_know(store: ArtifactStore) -> None:
    found = store.describe()
    assert store.root in found.text and found.warning is None
    if store.is_local:
        assert found.free_bytes and re.search(r", \d+ GB free$", found.text)
    else:
        assert f" at {os.environ['AWS_ENDPOINT_URL_S3']}" in found.text and found.text.endswith("s apart")
    assert "clock is 10 minutes behind the store's" in str(found._replace(clock_skew_s=-600.0).warning)
    assert store.unfinished_uploads(0) == []


def test_an_attempt_leaves_no_local_folder_behind(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError), store.attempt() as attempt:
        (attempt.folder / "half.txt").write_text("half")
        raise ZeroDivisionError
    assert not attempt.folder.exists()


OUTSIDE = ["../x", "more/../../x", "/tmp/x", "", ".", "more//x", "..\\x", "C:x", "x\n"]


@pytest.mark.parametrize("forged", ["files", "attempt", "address"])
def test_a_manifest_that_names_places_outside_of_it_is_not_believed(
    store: ArtifactStore, tmp_path: Path, forged: str
) -> None:
    """Whoever may write to the store could else have any file of a worker written."""
    manifest = publish(store)
    fields = json.loads(store.files.read(manifest_path(store)))
    entry = fields["files"]["pairs.parquet"]
    outside = [*OUTSIDE, "ABCDEF012345", "shards"] if forged == "attempt" else OUTSIDE
    for name in outside:
        changed = {"files": {**fields["files"], name: entry}, "attempt": name, "address": name}[forged]
        store.files.write(manifest_path(store), json.dumps(fields | {forged: changed}).encode())
        assert reason(store).startswith("damaged: its manifest"), name
        for read in (
            lambda: store.fetch(AT, tmp_path / "inner" / "local"),
            lambda: store.copy_out(AT, "runs/a/report"),
            lambda: store.read_table(AT, "pairs"),
        ):
            with pytest.raises(StoreError):
                read()
    assert not (tmp_path / "inner").exists()
    assert publish(store).files == manifest.files  # as any damage: what is computed anew replaces it


def test_an_artifact_in_the_place_of_another_is_a_miss(store: ArtifactStore) -> None:
    publish(store)
    publish(store, "steps/generate/other")
    store.files.write(manifest_path(store), store.files.read(manifest_path(store, "steps/generate/other")))
    assert reason(store) == "damaged: its manifest is that of steps/generate/other"


def test_nothing_is_read_or_written_outside_the_store(store: ArtifactStore) -> None:
    for name in OUTSIDE:
        for use in (store.path, store.lookup, store.read_pointer, store.retract, store.children):
            with pytest.raises(StoreError):
                use(name)
        with pytest.raises(StoreError):
            store.write_pointer(f"runs/{name}", {})


@pytest.mark.parametrize(
    "pointer",
    [
        {"stage": "../..", "key": "0" * 64},
        {"stage": "generate", "key": "../../x"},
        {"stage": "generate", "key": "a/b"},
        {"stage": "generate", "key": 7},
        {"key": "0" * 64},
    ],
)
def test_a_pointer_that_names_no_artifact_is_refused(pointer: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        read_reference(pointer)
