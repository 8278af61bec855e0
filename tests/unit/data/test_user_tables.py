"""Image folders and Parquet files as the `datasets` library has them."""

import hashlib
import io
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_lib.config.base import Data
from pipeline_lib.data import sources
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.table import check_table, fingerprint, read_image_list
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.discretize import discretize_scores
from pipeline_lib.store import ArtifactRef, ArtifactStore

PARTS = {"train": range(12), "validation": range(12, 22), "test": range(22, 25)}
REF = ArtifactRef(stage="discretize", key="0" * 64)


def png(n: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10 + n, 30), (n, n, n)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("nested", [True, False])
def test_an_image_folder_with_metadata(tmp_path: Path, ending: str, nested: bool) -> None:
    root = tmp_path / "folder"
    for split, numbers in PARTS.items():
        (root / split).mkdir(parents=True)
        for n in numbers:
            (root / split / f"{n:03}.png").write_bytes(png(n))
    tables = [
        pd.DataFrame(
            {
                "file_name": [f"{n:03}.png" if nested else f"{split}/{n:03}.png" for n in numbers],
                "score": [float(n) for n in numbers],
                "mood": "calm",
            }
        )
        for split, numbers in PARTS.items()
    ]
    if nested:
        for split, table in zip(PARTS, tables, strict=True):
            write(root / split / f"metadata.{ending}", table)
    else:
        whole = pd.concat(tables).assign(split=[split for split, numbers in PARTS.items() for _ in numbers])
        write(root / f"metadata.{ending}", whole)
    data = Data(table=str(root))
    images = read_image_list(data, 0)
    assert set(images.rows["image"]) == {f"{split}/{n:03}.png" for split, part in PARTS.items() for n in part}
    assert images.rows["split"].value_counts().to_dict() == {"train": 12, "val": 10, "test": 3}
    assert set(images.rows["mood"]) == {"calm"}
    assert discretize_scores(images, 0.0, 1.0).images.num_rows == 25
    assert ImageSet.of(data, REF).folder == str(root)


def write(path: Path, table: pd.DataFrame) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
    else:
        table.to_parquet(path, index=False)


def test_metadata_without_file_names_and_unsafe_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"image": "1.png", "score": 1}\n')
    with pytest.raises(DataError, match=r"metadata\.jsonl.*file_name.*image, score"):
        read_image_list(Data(table=str(tmp_path)), 0)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "../1.png", "score": 1}\n')
    with pytest.raises(DataError, match=r"image folder.*: \.\./1\.png"):
        read_image_list(Data(table=str(tmp_path), split_column=None), 0)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": \n')
    with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read"):
        read_image_list(Data(table=str(tmp_path)), 0)


def shard(path: Path, numbers: range, kind: str, **columns: Any) -> None:
    contents = [png(n) for n in numbers]
    images: Any
    if kind == "struct":
        names = [f"{n:03}.png" for n in numbers]
        rows = [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]
        images = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        images = pa.array(contents, pa.large_binary() if kind == "large" else pa.binary())
    table = pa.table(
        {"image": images, "score": [float(n) for n in numbers], "mood": ["calm"] * len(contents)} | columns
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=5)


@pytest.mark.parametrize("kind", ["struct", "binary", "large"])
@pytest.mark.parametrize("folder", ["", "data"])
def test_shards_with_the_images_in_them(tmp_path: Path, kind: str, folder: str) -> None:
    root = tmp_path / "my [data]"  # brackets are no pattern
    for split, numbers in PARTS.items():
        shard(root / folder / f"{split}-00000-of-00001.parquet", numbers, kind)
    data = Data(table=str(root))
    images = read_image_list(data, 0)
    assert images.rows["split"].value_counts().to_dict() == {"train": 12, "val": 10, "test": 3}
    assert list(images.rows.columns) == ["image", "score", "split", "group", "mood"]
    first = images.rows.sort_values("score")["image"].iloc[0]
    assert first == "000.png" if kind == "struct" else first.startswith("row-000000")
    tables = discretize_scores(images, 0.0, 1.0)
    for row in tables.images.to_pylist():
        assert row["width_px"] == 10 + row["score"]
        assert row["image_sha256"] == hashlib.sha256(png(int(row["score"]))).hexdigest()
    image_set = ImageSet.model_validate_json(ImageSet.of(data, REF).model_dump_json())
    open_image = image_set.opener(500)
    keys = [(row["image"], row["image_sha256"], row["width_px"]) for row in tables.images.to_pylist()]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda key: open_image(*key[:2]).width, keys)) == [key[2] for key in keys]
    with multiprocessing.get_context("fork").Pool(1) as processes:  # as a data loader's worker has it
        assert processes.starmap(_width, [(image_set, *key[:2]) for key in keys[:3]]) == [key[2] for key in keys[:3]]


def _width(image_set: ImageSet, image: str, sha256: str) -> int:
    return image_set.opener(500)(image, sha256).width


def test_changed_shards_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    splits = ["train"] * 12 + ["val"] * 10 + ["test"] * 3
    shard(path, range(25), "struct", split=splits)
    images = read_image_list(Data(table=str(path)), 0)
    before, sha256 = fingerprint(images), hashlib.sha256(png(3)).hexdigest()
    assert ImageSet.of(Data(table=str(path)), REF).opener(99)("003.png", sha256).width == 13
    shard(path, range(1, 26), "struct", split=splits)
    assert fingerprint(read_image_list(Data(table=str(path)), 0)) != before  # also in this process
    with pytest.raises(DataError, match=r"000\.png.*no row"):
        ImageSet.of(Data(table=str(path)), REF).opener(99)("000.png", sha256)


def test_rows_without_bytes_are_missing_images_and_equal_paths_no_names(tmp_path: Path) -> None:
    rows = [{"bytes": png(n) if n else None, "path": f"{n // 2}.png"} for n in range(25)]
    images = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    splits = ["train"] * 12 + ["val"] * 10 + ["test"] * 3
    masks = pa.array([b"mask"] * 25, pa.binary())
    table = pa.table({"image": images, "score": [float(n) for n in range(25)], "split": splits, "mask": masks})
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_image_list(Data(table=str(tmp_path / "t.parquet")), 0)
    assert found.rows["image"].tolist() == [f"row-{n:08}" for n in range(25)] and "mask" not in found.rows
    unreadable = discretize_scores(found, 0.1, 1.0).unreadable.to_pylist()
    assert unreadable == [{"image": "row-00000000", "reason": "its row holds no bytes"}]


def test_a_split_column_wins_over_names_of_shards_which_must_all_be_splits(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.parquet", range(12), "struct")
    shard(tmp_path / "more.parquet", range(12, 25), "struct")
    with pytest.raises(DataError, match=r"more\.parquet.*split.*train-0\.parquet"):
        read_image_list(Data(table=str(tmp_path)), 0)
    assert len(check_table(Data(table=str(tmp_path), split_column=None), 0).images.rows) == 25
    shard(tmp_path / "more.parquet", range(12, 25), "struct", split=["val"] * 10 + ["test"] * 3)
    shard(tmp_path / "train-0.parquet", range(12), "struct", split=["train"] * 12)
    assert len(read_image_list(Data(table=str(tmp_path)), 0).rows) == 25


def test_damaged_shards_and_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder: expected metadata\.csv.*found neither"):
        read_image_list(Data(table=str(tmp_path)), 0)
    shard(tmp_path / "train-0.parquet", range(12), "struct")
    content = (tmp_path / "train-0.parquet").read_bytes()
    (tmp_path / "train-0.parquet").write_bytes(content[:200] + bytes(400) + content[600:])
    with pytest.raises(DataError, match=r"train-0\.parquet .*cannot be read"):
        read_image_list(Data(table=str(tmp_path)), 0)


def test_another_content_of_the_same_size_in_a_shard_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SETTLED_S", -1.0)
    store, path = ArtifactStore(str(tmp_path / "store")), tmp_path / "t.parquet"
    splits = ["train"] * 12 + ["val"] * 10 + ["test"] * 3

    def now(first: bytes) -> str:
        rows = [{"bytes": first if n == 0 else png(n), "path": f"{n:03d}.png"} for n in range(25)]
        images = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        scores = pa.array(np.arange(25.0))
        pq.write_table(pa.table({"image": images, "score": scores, "split": splits}), path, compression="none")
        os.utime(path, ns=(time.time_ns(), time.time_ns()))  # else two writings may share a tick of the clock
        return fingerprint(read_image_list(Data(table=str(path)), 0), store)

    other = bytearray(png(0))
    other[-20] ^= 1
    before = now(png(0))
    assert now(bytes(other)) != before
    assert now(png(0)) == before
