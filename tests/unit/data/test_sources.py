"""Images and tables on S3, against a real server on loopback."""

import multiprocessing
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from pipeline_lib.config.base import Data
from pipeline_lib.data import files
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.images import scan_images
from pipeline_lib.data.sources import Bucket, LocalFolder, MissingImage, folder_source
from pipeline_lib.data.table import ImageList, fingerprint, read_image_list
from pipeline_lib.errors import DataError, S3Error
from pipeline_lib.methods.self_improve.discretize import discretize_scores
from pipeline_lib.store import ArtifactStore, patience
from pipeline_lib.store.key import ArtifactRef
from tests.unit.data.test_user_tables import png, shard

SPLIT = ["train"] * 12 + ["val"] * 10 + ["test"] * 3


@pytest.fixture(scope="module")
def bucket(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of 25 photographs and its table."""
    storage = fsspec.filesystem("s3")
    storage.mkdir("photographs")
    for n in range(25):
        storage.pipe_file(f"photographs/set/images/{n} #ä.png", png(n))
    table = pd.DataFrame({"image": [f"{n} #ä.png" for n in range(25)], "score": range(25), "split": SPLIT})
    storage.pipe_file("photographs/set/scores.csv", table.to_csv(index=False).encode())
    path = tmp_path_factory.mktemp("shards") / "t.parquet"
    shard(path, range(25), "struct", split=SPLIT)
    storage.put_file(str(path), "photographs/shards/t.parquet")
    storage.pipe_file("photographs/list.txt", b"0 #\xc3\xa4\n1 #\xc3\xa4.png\n")
    return "s3://photographs"


def s3(bucket: str) -> Data:
    return Data(table=f"{bucket}/set/scores.csv", images=f"{bucket}/set/images")


def test_a_table_and_images_on_s3_are_as_local_ones(bucket: str, tmp_path: Path) -> None:
    images = read_image_list(s3(bucket), 0)
    tables = discretize_scores(images, 0.0, 1.0)
    assert tables.images["width_px"].to_pylist() == [10 + n for n in range(25)]
    for n in range(25):
        (tmp_path / f"{n} #ä.png").write_bytes(png(n))
    assert fingerprint(images) == fingerprint(ImageList(images.rows, LocalFolder(str(tmp_path))))
    opener = ImageSet.of(s3(bucket), ArtifactRef(stage="discretize", key="0" * 64)).opener(99)
    assert opener("3 #ä.png", tables.images["image_sha256"][3].as_py()).width == 13


def test_split_lists_may_be_on_s3(bucket: str) -> None:
    data = s3(bucket).model_copy(update={"split_lists": Data.model_fields["split_lists"].default.model_copy(
        update={"test": f"{bucket}/list.txt"})})  # fmt: skip
    from pipeline_lib.data.table import check_table

    assert check_table(data, 0).images.rows["split"].tolist()[:2] == ["test", "test"]


def test_images_inside_parquet_files_on_s3(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for table in (f"{bucket}/shards", f"{bucket}/shards/t.parquet"):
        found = discretize_scores(read_image_list(Data(table=table), 0), 0.0, 1.0)
        assert found.images["width_px"].to_pylist() == [10 + n for n in range(25)]


def test_a_missing_object_is_missing_and_a_failing_store_is_an_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingImage):
        Bucket(f"{bucket}/set/images").read("none.png")
    images = read_image_list(s3(bucket), 0)
    images.rows.loc[0, "image"] = "none.png"
    facts = scan_images(images, 1.0)
    assert [fact.problem for fact in facts] == ["No such object"] + [""] * 24
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")  # nobody listens there any more
    monkeypatch.setattr(patience, "OF_THIS_PROCESS", patience.Patience())
    type(fsspec.filesystem("s3")).clear_instance_cache()
    try:
        with pytest.raises(DataError, match=r"none\.png") as failed:
            scan_images(images, 1.0)
        assert isinstance(failed.value.__cause__, S3Error)
        with pytest.raises(DataError, match=r"scores\.csv"):
            fingerprint(read_image_list(s3(bucket), 0))
    finally:
        type(fsspec.filesystem("s3")).clear_instance_cache()


def test_a_bucket_can_be_read_in_threads_and_after_a_fork(bucket: str) -> None:
    source = folder_source(f"{bucket}/set/images/")
    names = [f"{n} #ä.png" for n in range(25)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, names)) == [png(n) for n in range(25)]
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map_async(source.read, names).get(timeout=60) == [png(n) for n in range(25)]


def test_versions_cost_one_listing(bucket: str) -> None:
    source = Bucket(f"{bucket}/set/images")
    assert str(source.version("./3 #ä.png")).startswith(f"{len(png(3))} ") and source.version("none.png") is None
    fsspec.filesystem("s3").pipe_file("photographs/set/images/late.png", b"1")
    assert source.version("late.png") is None  # the listing was made once
    assert str(Bucket(f"{bucket}/set/images").version("late.png")).startswith("1 ")
    assert Bucket(f"{bucket}/nothing/here").version("1.png") is None


def test_an_object_is_read_for_its_digest_when_its_etag_changes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = ArtifactStore(str(tmp_path)), Bucket.read
    asked: list[str] = []

    def noting(self: Bucket, image: str) -> bytes:
        asked.append(image)
        return read(self, image)

    monkeypatch.setattr(Bucket, "read", noting)

    def now() -> str:
        asked.clear()
        return fingerprint(read_image_list(s3(bucket), 0), store)

    before = now()
    assert len(asked) == 25 and now() == before and asked == []
    changed = bytearray(png(3))
    changed[-20] ^= 1
    fsspec.filesystem("s3").pipe_file("photographs/set/images/3 #ä.png", bytes(changed))
    assert now() != before and asked == ["3 #ä.png"]
    fsspec.filesystem("s3").pipe_file("photographs/set/images/3 #ä.png", png(3))
    assert now() == before


def test_no_other_storage_is_taken_for_a_folder() -> None:
    with pytest.raises(DataError, match=r"gs://bucket/t\.csv.*s3://"):
        read_image_list(Data(table="gs://bucket/t.csv"), 0)


def test_local_trouble_that_is_not_the_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    source = LocalFolder(str(tmp_path))
    for name in ("none.png", "folder", "x" * 300, "folder/none/1.png"):
        with pytest.raises(MissingImage):
            source.read(name)
        assert name == "folder" or source.version(name) is None
    (tmp_path / "loop").symlink_to("loop")  # stands for whatever a file system answers
    with pytest.raises(DataError, match=r"loop.*Too many levels"):
        source.read("loop")


def test_a_file_is_written_to_s3_as_to_a_folder(bucket: str, tmp_path: Path) -> None:
    for path in (f"{bucket}/out/p.csv", str(tmp_path / "out" / "p.csv")):
        files.write_file(path, b"1")
        files.write_file(path, b"2")
        assert files.read_file(path) == b"2"
    for path in ("s3://no-such-bucket-here/p.csv", str(tmp_path / "out" / "p.csv" / "p.csv")):
        with pytest.raises(DataError, match=r"p\.csv"):
            files.write_file(path, b"1")
