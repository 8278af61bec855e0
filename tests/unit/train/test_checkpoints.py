"""Checkpoints in the store: two are kept, the newest valid one counts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.train.checkpoints import MirrorCheckpoints, restore_newest

AT = "steps/train_score/k"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def save(store: ArtifactStore, output: Path, step: int) -> None:
    local = output / f"checkpoint-{step}"
    local.mkdir(parents=True)
    (local / "adapter_model.safetensors").write_text(f"weights of step {step}")
    (local / "training_args.bin").write_text("a pickle")
    MirrorCheckpoints(store, AT).on_save(
        SimpleNamespace(output_dir=str(output)), SimpleNamespace(global_step=step), SimpleNamespace()
    )


def file_of(store: ArtifactStore, step: int) -> Path:
    return next(Path(store.path(f"{AT}/checkpoints/step-{step:08d}")).glob("*/adapter_model.safetensors"))


def test_the_newest_two_are_kept_and_no_pickle_among_them(store: ArtifactStore, tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(store, tmp_path / "training", step)
    assert store.children(f"{AT}/checkpoints") == ["step-00000010", "step-00000100"]
    local = restore_newest(store, AT, tmp_path / "scratch")
    assert local == tmp_path / "scratch" / "checkpoint-100"
    assert [path.name for path in local.iterdir()] == ["adapter_model.safetensors"]
    assert (local / "adapter_model.safetensors").read_text() == "weights of step 100"


def test_a_checkpoint_that_another_run_is_writing_stays(store: ArtifactStore, tmp_path: Path) -> None:
    """Two runs train the same adapter, one of them three checkpoints ahead."""
    other = [Path(store.path(f"{AT}/checkpoints/step-{step:08d}/other/adapter_model.safetensors")) for step in (5, 10)]
    other[0].parent.mkdir(parents=True)
    other[0].write_text("half")
    save(store, tmp_path / "training", 10)
    other[1].parent.mkdir(parents=True)
    other[1].write_text("half")
    for step in (15, 20):
        save(store, tmp_path / "training", step)
    assert [path.read_text() for path in other] == ["half"] * 2
    whole = [name for name in store.children(f"{AT}/checkpoints") if isinstance(at(store, name), Manifest)]
    assert whole == ["step-00000015", "step-00000020"]


def at(store: ArtifactStore, name: str) -> object:
    return store.lookup(f"{AT}/checkpoints/{name}")


def test_without_a_checkpoint_nothing_is_restored(store: ArtifactStore, tmp_path: Path) -> None:
    assert restore_newest(store, AT, tmp_path / "scratch") is None


@pytest.mark.parametrize("damage", ["no manifest", "torn manifest", "missing file", "truncated file", "changed file"])
def test_a_damaged_newest_checkpoint_is_passed_over(store: ArtifactStore, tmp_path: Path, damage: str) -> None:
    for step in (5, 10):
        save(store, tmp_path / "training", step)
    manifest = Path(store.path(f"{AT}/checkpoints/step-00000010/manifest.json"))
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "torn manifest":
        manifest.write_text(manifest.read_text()[:50])
    elif damage == "missing file":
        file_of(store, 10).unlink()
    elif damage == "truncated file":
        file_of(store, 10).write_text("weights")
    else:
        file_of(store, 10).write_text("weights of step 99")
    local = restore_newest(store, AT, tmp_path / "scratch")
    assert local == tmp_path / "scratch" / "checkpoint-5"
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["checkpoint-5"]
    save(store, tmp_path / "again", 10)  # the resumed training comes by again
    assert restore_newest(store, AT, tmp_path / "scratch2") == tmp_path / "scratch2" / "checkpoint-10"


def test_damaged_checkpoints_do_not_push_valid_ones_out(store: ArtifactStore, tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(store, tmp_path / "training", step)
    Path(store.path(f"{AT}/checkpoints/step-00000015/manifest.json")).unlink()
    save(store, tmp_path / "training", 20)
    file_of(store, 20).write_text("torn")
    local = restore_newest(store, AT, tmp_path / "scratch")
    assert local == tmp_path / "scratch" / "checkpoint-10"
