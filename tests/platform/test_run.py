"""A whole run on the real stack, triggered through Prefect's API with parameters."""

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config.load import load_recipe
from pipeline_lib.store import ArtifactStore
from tests.platform.conftest import Stack, read_run, slow, wait_for
from tests.small_run import write_small_recipe

pytestmark = [slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def recipe_fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("small")
    recipe = load_recipe(
        write_small_recipe(folder, folder / "unused"), {"iterations": 1, "faithfulness.rows": 0, "judge.anchors": 0}
    )
    return recipe.model_dump(mode="json")


def test_a_run_finishes_with_its_heavy_stages_in_the_gpu_pool(
    stack: Stack, deployed: list[str], recipe_fields: dict[str, Any]
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment

    parameters = {"recipe": recipe_fields, "overrides": {"name": "through-the-api"}}
    run: Any = run_deployment("self_improve/self_improve", parameters=parameters, timeout=0)
    wait_for(lambda: read_run(run.id).state.is_final(), 1200, "the run ends")
    assert read_run(run.id).state.is_completed(), read_run(run.id).state.message
    assert read_run(run.id).name == "through-the-api"
    store = ArtifactStore(stack.settings["WHYSCORE_STORE"])
    assert (Path(store.path("runs/through-the-api/report")) / "report.html").exists()
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=200)
        keys = {artifact.key for artifact in client.read_artifacts(limit=200)}
    gpu = {item.name for item in runs if item.work_pool_name == "gpu" and item.parameters.get("stage")}
    stages = ("ite-1 generate", "zero-shot evaluate", "ite-1 train_score", "ite-1 score evaluate")
    assert {f"through-the-api {stage}" for stage in stages} <= gpu
    of_this_run = {key for key in keys if key and key.startswith("through-the-api-")}
    assert {f"through-the-api-{name}" for name in ("ite-1-train-score", "verdict", "report-link")} <= of_this_run
    assert not any(key and key.startswith(("ite-", "zero-shot")) for key in keys), "a card without the run's name"
    assert not any(light in name for name in gpu for light in ("discretize", "judge", "report", "swap"))


def test_another_run_of_the_same_recipe_computes_nothing(
    stack: Stack, deployed: list[str], recipe_fields: dict[str, Any]
) -> None:
    from prefect.deployments import run_deployment

    assert ArtifactStore(stack.settings["WHYSCORE_STORE"]).children("steps/generate"), "needs the run before it"
    parameters = {"recipe": recipe_fields, "overrides": {"name": "through-the-api"}}
    run: Any = run_deployment("self_improve/self_improve", parameters=parameters, timeout=0)
    wait_for(lambda: read_run(run.id).state.is_final(), 300, "the run ends")
    assert read_run(run.id).state.is_completed(), read_run(run.id).state.message
    log = (stack.folder / "logs" / "worker-cpu-0.log").read_text()
    last = log[log.rindex("Beginning flow run 'through-the-api'") :]
    assert ": cached [" in last
    assert ": computing [" not in last


def test_its_model_predicts_and_is_compared(
    stack: Stack, deployed: list[str], recipe_fields: dict[str, Any], tmp_path: Path
) -> None:
    from prefect.deployments import run_deployment

    store = ArtifactStore(stack.settings["WHYSCORE_STORE"])
    assert store.children("runs/through-the-api"), "needs the run before it"
    common = {"recipe": recipe_fields, "overrides": {"name": "through-the-api", "ablation.rows": ["dpo"]}}
    photograph = sorted(Path(recipe_fields["data"]["table"]).parent.rglob("*.jpg"))[0]
    new = {**common, "images": [str(photograph)], "out": str(tmp_path / "new.csv")}
    predict: Any = run_deployment("predict/predict", parameters=new, timeout=0)
    ablation: Any = run_deployment("ablation/ablation", parameters=common, timeout=0)
    for run in (predict, ablation):
        wait_for(lambda run=run: read_run(run.id).state.is_final(), 600, "the run ends")
        assert read_run(run.id).state.is_completed(), read_run(run.id).state.message
    assert photograph.name in (tmp_path / "new.csv").read_text()
    assert Path(store.path("runs/through-the-api/ablation/comparison.html")).exists()


def test_a_wrong_recipe_fails_with_what_is_wrong(stack: Stack, deployed: list[str]) -> None:
    from prefect.deployments import run_deployment

    log = stack.folder / "logs" / "worker-cpu-0.log"
    before = len(log.read_text())
    run: Any = run_deployment(
        "self_improve/self_improve", parameters={"recipe": "demo", "overrides": {"iterations": 0}}, timeout=0
    )
    wait_for(lambda: read_run(run.id).state.is_final(), 120, "the run ends")
    assert read_run(run.id).state.is_failed()
    assert "iterations" in read_run(run.id).state.message
    assert "iterations" in log.read_text()[before:]
    assert "Traceback" not in log.read_text()[before:]


def test_memory_is_looked_at_where_the_model_is_computed(
    stack: Stack, deployed: list[str], recipe_fields: dict[str, Any]
) -> None:
    from prefect.deployments import run_deployment

    overrides = {"name": "too-large", "runtime.min_memory_gb": 9999, "seed": 7}
    parameters = {"recipe": recipe_fields, "overrides": overrides}
    run: Any = run_deployment("self_improve/self_improve", parameters=parameters, timeout=0)
    wait_for(lambda: read_run(run.id).state.is_final(), 400, "the run ends")
    assert "in the GPU pool ended as Failed" in read_run(run.id).state.message
    assert "the recipe needs 9999 GB" in read_run(run.id).state.message
