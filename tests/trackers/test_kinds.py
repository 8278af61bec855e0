"""GRPO, several processes, and trackers that need no server: TensorBoard's files and W&B offline."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config.base import Runtime
from pipeline_lib.trackers.tracker import Entry, Record, open_tracker
from pipeline_lib.train.job import GRPO
from pipeline_lib.train.launch import run_job_in_processes
from pipeline_lib.train.run_job import run_job
from tests.parity.test_grpo_training import CPU, STEPS, Data, data, place_of
from tests.trackers.conftest import MlflowServer, entries, points
from tests.trackers.test_curves import Killed, Train, dying, train

__all__ = ["data", "train"]


def installed(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"the package {package} is not installed; docs/testing.md says how")


@pytest.mark.parametrize("processes", [1, 2])
def test_grpo_and_several_processes_have_one_entry(
    server: MlflowServer, data: Data, tmp_path: Path, processes: int
) -> None:
    assert isinstance(data.job.loss, GRPO)
    loss = data.job.loss.model_copy(update={"processes": processes})
    job, place = data.job.model_copy(update={"loss": loss}), place_of(tmp_path, "a", trackers=("mlflow",), run="mine")
    if processes == 1:
        log = run_job(job, place, {"units": data.units}, CPU)
    else:
        runtime = Runtime(training_processes=processes, device="cpu")
        log = run_job_in_processes(job, place, {"units": data.units}, runtime)
    (entry,) = entries()
    of_entry = entry.info.run_id
    assert points(of_entry, "reward") == list(zip(range(1, STEPS + 1), log["reward"].to_pylist(), strict=True))
    assert len(points(of_entry, "kl")) == len(points(of_entry, "loss")) == STEPS
    assert entry.data.params["loss.settings.beta"] and entry.data.params["processes"] == str(processes)


@installed("tensorboard")
def test_tensorboard_continues_a_curve(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    with pytest.raises(Killed):
        train("a", open_image=dying(7), trackers=("tensorboard",))
    log, _ = train("a", trackers=("tensorboard",))
    (folder,) = (tmp_path / "board" / "mine").iterdir()
    assert folder.name.startswith("ite-1 a ") and len(list(folder.iterdir())) == 2
    events = EventAccumulator(str(folder))
    events.Reload()
    found = [(point.step, point.value) for point in events.Scalars("train/loss")]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx(log["loss"].to_pylist(), rel=1e-6)  # float32 in its files


@installed("wandb")
def test_wandb_keeps_the_id_and_nothing_of_an_image(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    with pytest.raises(Killed):
        train("a", open_image=dying(7), trackers=("wandb",))
    _, adapter = train("a", trackers=("wandb",))
    assert adapter == train("b")[1]
    runs = sorted(path for path in (folder / "wandb").iterdir() if path.name.startswith("offline-run-"))
    assert len(runs) == 2 and len({path.name.rpartition("-")[2] for path in runs}) == 1

    of_run = Entry("0123456789abcdef", "mine", "", {"store": "s"})
    one = open_tracker("wandb")
    one.record(of_run, [Record("ite-1 a evaluate", "steps/evaluate/k", {"test/srcc": 0.5}, {})])
    train("c", trackers=("wandb",))  # an open run of stages is not the training's
    one.record(of_run, [Record("report", "steps/report/k", {}, {"results.txt": "a table"})])
    of_name = {path.name.rpartition("-")[2]: path for path in (folder / "wandb").iterdir() if path.is_dir()}
    (stages,) = (of_name.pop(of_run.id)).glob("*.wandb")
    assert b"steps/evaluate/k" in stages.read_bytes() and b"train/loss" not in stages.read_bytes()
    assert len(of_name) == 3  # the two trainings, and the link to the latest
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"learning_rate" in kept and b"train/loss" in kept
    assert b"train-0.png" not in kept and b"train-" not in kept.replace(b"train-00", b"")
