"""Models in a bucket, on a real S3 server: the same as in a folder, copied once, never used when torn."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import s3fs
import torch

from pipeline_lib.config.base import Model
from pipeline_lib.errors import ModelError, S3Error
from pipeline_lib.store.s3_files import S3Files
from pipeline_lib.vlm import bucket
from pipeline_lib.vlm.bucket import cache_folder, fetch_folder
from pipeline_lib.vlm.load import load_base, load_processor
from pipeline_lib.vlm.model_ref import resolve_model
from tests.forked import ForkServer

FETCH = "import sys; from pipeline_lib.vlm import bucket; print(bucket.fetch_folder(sys.argv[1]))"
FETCH_AND_DIE = """
import os, sys
from pipeline_lib.vlm import bucket

class Dying(bucket.Progress):
    chunks = 0

    def advance(self, *_):
        self.chunks += 1
        if self.chunks == 8:
            os._exit(9)

bucket.Progress, bucket.CHUNK_BYTES = Dying, 20_000
bucket.fetch_folder(sys.argv[1])
"""


@pytest.fixture
def remote(s3_server: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model in a bucket of its own; copies go to an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fs, name = s3fs.S3FileSystem(), f"models-{tmp_path.parent.name}-{tmp_path.name}".replace("_", "-")[:60]
    name = name.rstrip("-").lower()
    fs.mkdir(name)
    for path in tiny_model.iterdir():
        fs.put_file(str(path), f"{name}/tiny/{path.name}")
    fs.pipe_file(f"{name}/tiny/training.log", b"not a part of the model")
    return f"s3://{name}/tiny"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_model_in_a_bucket_is_the_model_in_a_folder(remote: str, tiny_model: Path) -> None:
    ref, local = resolve_model(Model(id=remote, dtype="float32")), resolve_model(Model(id=str(tiny_model)))
    assert ref.fingerprint == local.fingerprint and ref.location == remote
    assert contents(ref.folder()) == contents(tiny_model)
    assert load_processor(ref).image_token == "<image>"
    weights = load_base(ref, torch.device("cpu")).model.state_dict()
    other = load_base(local.model_copy(update={"dtype": "float32"}), torch.device("cpu")).model.state_dict()
    assert all(torch.equal(weights[name], other[name]) for name in other)
    assert resolve_model(Model(id=remote + "/")).fingerprint == ref.fingerprint


def test_files_are_copied_once(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_folder(remote)
    monkeypatch.setattr(bucket, "_copy", lambda *_: pytest.fail("copied again"))
    assert fetch_folder(remote) == folder
    assert [path.name for path in cache_folder().iterdir() if path.is_dir()] == [folder.name]


def test_changed_files_are_noticed(remote: str) -> None:
    ref = resolve_model(Model(id=remote))
    before = contents(ref.folder())
    s3fs.S3FileSystem().pipe_file(f"{remote}/chat_template.jinja", b"{{ bos_token }}another")
    with pytest.raises(ModelError, match="the files in"):
        ref.folder()
    again = resolve_model(Model(id=remote))
    assert again.fingerprint != ref.fingerprint
    after = contents(again.folder())
    assert after["chat_template.jinja"] == b"{{ bos_token }}another" != before["chat_template.jinja"]
    assert {name for name in before if before[name] != after[name]} == {"chat_template.jinja"}


def test_a_killed_copy_is_never_used_and_is_gone_on_with(
    remote: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, libraries: ForkServer, tmp_path: Path
) -> None:
    assert libraries.start("-c", FETCH_AND_DIE, remote, log=tmp_path / "log").wait() == 9
    (left,) = [path for path in cache_folder().iterdir() if path.is_dir()]
    assert left.suffix == ".partial"
    torn = {path.name: path.stat().st_size for path in left.iterdir()}
    assert 20_000 < torn["model.safetensors"] < (tiny_model / "model.safetensors").stat().st_size
    with (left / "model.safetensors").open("r+b") as file:  # the last chunk did not reach the disk
        file.seek(-10, os.SEEK_END)
        file.write(b"\0" * 10)
    monkeypatch.setattr(bucket, "CHUNK_BYTES", 20_000)
    starts, read_part = [], S3Files.read_part

    def spy(self: S3Files, path: str, start: int, end: int) -> bytes:
        starts.append((path.rpartition("/")[2], start))
        return read_part(self, path, start, end)

    monkeypatch.setattr(S3Files, "read_part", spy)
    folder = fetch_folder(remote)
    assert contents(folder) == contents(tiny_model) and not left.exists()
    assert min(start for name, start in starts if name == "model.safetensors") >= 20_000


def test_two_processes_at_once_make_one_copy(
    remote: str, tiny_model: Path, libraries: ForkServer, tmp_path: Path
) -> None:
    logs = [tmp_path / name for name in ("one", "two")]
    processes = [libraries.start("-c", FETCH, remote, log=log) for log in logs]
    assert [process.wait() for process in processes] == [0, 0]
    (folder,) = {log.read_text().splitlines()[-1] for log in logs}
    assert contents(Path(folder)) == contents(tiny_model)


def test_a_copy_of_files_that_change_meanwhile_is_refused(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = bucket.Progress.advance

    def change(self: Any, *given: Any) -> None:
        s3fs.S3FileSystem().pipe_file(f"{remote}/chat_template.jinja", os.urandom(8))
        advance(self, *given)

    monkeypatch.setattr(bucket.Progress, "advance", change)
    with pytest.raises(ModelError, match="changed"):
        fetch_folder(remote)
    assert not [path for path in cache_folder().iterdir() if path.is_dir() and path.suffix != ".partial"]


def test_what_is_not_there_is_said(remote: str) -> None:
    with pytest.raises(ModelError, match="s3://no-such-bucket-here/m") as refused:
        resolve_model(Model(id="s3://no-such-bucket-here/m"))
    assert isinstance(refused.value.__cause__, S3Error) and refused.value.__cause__.code == "NoSuchBucket"
    with pytest.raises(ModelError, match=f"{remote}-other"):
        resolve_model(Model(id=f"{remote}-other"))
    s3fs.S3FileSystem().pipe_file(f"{remote}/sub/model.safetensors", b"x")
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(Model(id=f"{remote}/sub"))
    with pytest.raises(ModelError, match=r"model\.revision"):
        resolve_model(Model(id=remote, revision="a" * 40))
    with pytest.raises(ModelError, match="nonsense"):
        resolve_model(Model(id="nonsense://bucket/model"))


def test_missing_credentials_are_said(remote: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(ModelError, match="AWS_ACCESS_KEY_ID"):
            resolve_model(Model(id=remote))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_an_incomplete_model_is_refused(remote: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    from pipeline_lib.vlm.weights import missing_weights

    assert missing_weights(folder) == ["model-00001-of-00002.safetensors"]
    (folder / "model.safetensors.index.json").write_text("torn")
    with pytest.raises(ModelError, match=r"index\.json is damaged"):
        missing_weights(folder)
