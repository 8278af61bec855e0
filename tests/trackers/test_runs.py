"""A whole run on a real MLflow server: what it is told of the stages, and that it is told nothing of an image."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.checks.doctor import examine
from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import RecipeError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.trackers import background, tracker
from tests.small_run import watch_run
from tests.trackers.conftest import MlflowServer, entries, points


@pytest.fixture
def again(small_run: Path, tmp_path: Path) -> Any:
    """The recipe of the finished small run with a tracker, over a copy of its store without one of its adapters."""
    shutil.copytree(small_run / "store", tmp_path / "store")
    changes = {"runtime.store": str(tmp_path / "store"), "runtime.trackers": ["mlflow"]}
    recipe = load_recipe(small_run / "small.yaml", changes)
    store = ArtifactStore(recipe.runtime.store)
    (adapter,) = store.children("steps/train_consistency")
    store.retract(f"steps/train_consistency/{adapter}")
    return recipe


def test_a_run_has_an_entry_with_figures_addresses_and_results(server: MlflowServer, again: Any) -> None:
    watched = watch_run(again)
    assert watched.computed == ["ite-2 train_consistency"]
    for purpose in ("mlflow", "mlflow (figures of stages)"):
        assert background.background(purpose).close(120)
    of_name = {entry.info.run_name: entry for entry in entries()}
    assert set(of_name) == {"small", "small ite-2 train_consistency"}
    run, curve = of_name["small"], of_name["small ite-2 train_consistency"]
    store = ArtifactStore(again.runtime.store)
    newest = store.read_pointer("runs/small/iteration-02/merged/predictions.json")
    assert newest is not None
    assert run.data.tags["whyscore.artifact.ite-2 merged evaluate"] == newest["address"]
    measured = {
        (row["split"], row["metric"]): row["value"]
        for row in store.read_table(newest["address"], "metrics").to_pylist()
    }
    assert run.data.metrics["ite-2 merged evaluate/test/srcc_stated"] == measured["test", "srcc_stated"]
    assert run.data.params["store"] == store.root and run.info.status == "FINISHED"
    assert {tag.removeprefix("whyscore.artifact.") for tag in run.data.tags} >= {*watched.cached, *watched.computed}
    log = store.read_table(curve.data.params["artifact"], "training_log")
    assert [value for _, value in points(curve.info.run_id, "loss")] == log["loss"].to_pylist()

    import mlflow

    results = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/results.txt")
    assert "ite-2 merged" in results
    assert "Can this model" in mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/verdict.txt")

    kept = server.everything()
    names = store.read_table(store.read_pointer("runs/small/images.json")["address"], "images")["image"].to_pylist()
    marks = [b"\xff\xd8\xff", b"data:image", bytes(Path(again.data.table).parent), *(_stem(name) for name in names)]
    leaked, whole = [mark for mark in marks if mark in kept], b"whyscore.artifact" in kept
    assert leaked == [] and whole and len(names) == 80

    watch_run(again)  # all cached: the entry stays as it is
    assert background.background("mlflow (figures of stages)").close(120)
    assert len(entries()) == 2
    assert len(points(run.info.run_id, "ite-2 merged evaluate/test/srcc_stated")) == 1


def _stem(name: str) -> bytes:
    return Path(name).stem.encode()


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_package_is_said_before_anything_is_computed(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda _: None)
    changes = {"runtime.store": str(tmp_path / "store"), "runtime.trackers": [name]}
    recipe = load_recipe(small_run / "small.yaml", changes)
    with pytest.raises(RecipeError, match=rf"names {name}.*pip install"):
        watch_run(recipe)
    assert ArtifactStore(recipe.runtime.store).children("steps") == []
    assert [found.state for found in examine(recipe) if found.what == "trackers"] == ["FAIL"]


def test_the_small_package_of_mlflow_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda name: None if name == "alembic" else object())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RecipeError, match="MLFLOW_TRACKING_URI"):
        tracker.check_trackers(["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker.check_trackers(["mlflow"])


def test_wandb_without_a_key_is_said_before_it_asks_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda _: object())
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RecipeError, match="wandb login"):
        tracker.check_trackers(["wandb"])
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789")
    tracker.check_trackers(["wandb"])
    monkeypatch.setenv("NETRC", "")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker.check_trackers(["wandb"])
