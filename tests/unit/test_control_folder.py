"""Which folder is the control of a run."""

from pathlib import Path

from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder
from tasks.common.run import control_folder, finished_control

IMAGES = ArtifactRef(stage="discretize", key="0" * 64)


def test_a_control_is_of_one_recipe_alone(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    run, other = (RunFolder(store, "r", {"name": "r", "seed": seed}, IMAGES) for seed in (0, 1))
    assert finished_control(run) is None
    control_folder(run, IMAGES)
    found = finished_control(run)
    assert found is not None and found.name == "r-control"
    assert finished_control(other) is None


def test_a_run_that_is_named_like_a_control_is_none(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    RunFolder(store, "r-control", {"name": "r-control"}, IMAGES).begin()
    assert finished_control(RunFolder(store, "r", {"name": "r"}, IMAGES)) is None
