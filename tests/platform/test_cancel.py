"""*Cancel* and *Retry* in the UI, which are these changes of a run's state, while a stage trains in the GPU pool."""

from pathlib import Path
from typing import Any

import pytest

from deployments.processes import marked
from pipeline_lib.config.load import load_recipe
from pipeline_lib.store import ArtifactStore
from tests.platform.conftest import Stack, read_run, slow, wait_for
from tests.small_run import write_small_recipe

pytestmark = [slow, pytest.mark.timeout(1500)]


def stage_runs(name: str) -> list[Any]:
    """Runs of a stage in the GPU pool, the oldest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    return sorted(found, key=lambda run: run.created)


def test_cancel_stops_training_with_a_checkpoint_and_retry_goes_on_from_it(
    stack: Stack, deployed: list[str], tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment
    from prefect.states import Cancelling, Scheduled

    def set_state(run_id: Any, state: Any) -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, state)

    log = stack.folder / "logs" / "worker-gpu-0.log"
    before = len(log.read_text())

    def said(text: str) -> bool:
        return text in log.read_text()[before:]

    changes = {"iterations": 1, "faithfulness.rows": 0, "training.epochs": 60, "runtime.checkpoint_every": 999}
    recipe = load_recipe(write_small_recipe(tmp_path, tmp_path / "unused"), changes)
    store = ArtifactStore(f"{stack.settings['WHYSCORE_STORE']}-cancel")
    idle = {service: len(marked(stack.folder, service)) for service in ("worker-cpu-0", "worker-gpu-0")}
    parameters = {"recipe": recipe.model_dump(mode="json"), "store": store.root}
    run: Any = run_deployment("self_improve/self_improve", parameters=parameters, timeout=0)

    wait_for(lambda: said("train_score: ") and said(" steps, "), 600, "it trains")
    (training,) = stage_runs("small ite-1 train_score")
    set_state(run.id, Cancelling())
    wait_for(lambda: said("after SIGTERM"), 30, "the training is told, not only the run that waits for it")
    wait_for(lambda: read_run(training.id).state.is_cancelled(), 120, "the stage is cancelled")
    wait_for(lambda: read_run(run.id).state.is_cancelled(), 120, "the run is cancelled")
    (trained,) = store.children("steps/train_score")
    assert store.children(f"steps/train_score/{trained}/checkpoints"), "no checkpoint of the step it stopped at"
    for service, count in idle.items():
        wait_for(lambda s=service, n=count: len(marked(stack.folder, s)) == n, 60, f"{service} has no run left")

    set_state(run.id, Scheduled(name="AwaitingRetry"))
    wait_for(lambda: said("going on from step "), 300, "the training goes on")
    assert len(stage_runs("small ite-1 generate")) == 1, "a finished stage was computed again"
    set_state(run.id, Cancelling())
    wait_for(lambda: read_run(run.id).state.is_cancelled(), 180, "the run is cancelled again")
