"""A stage computed by a worker of the GPU pool, while the flow that asked for it waits on a CPU worker.

The state after a hard crash of the waiting flow: the stage's own flow run goes on. When the flow starts again it finds
that run by its idempotency key and waits for it, instead of starting another. What comes back is never a value: the
artifact is in the store, or it is not.
"""

import inspect
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter

from pipeline_lib.errors import WhyScoreError
from pipeline_lib.recipe import Runtime
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest, artifact_key

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

log = logging.getLogger("whyscore.stage")

DEPLOYMENT = "WHYSCORE_GPU_STAGES"
"""Environment variable that names the deployment which computes stages that need the model; unset: they run here."""

POLL_S = 2.0
RESTART_PATIENCE = timedelta(
    seconds=90
)  # how long a crashed run may stay crashed: the automation starts it again within seconds


def pool_deployment() -> str | None:
    """The deployment that computes GPU stages, if they aren't computed in this process."""
    return os.environ.get(DEPLOYMENT) or None


def compute_in_pool(
    deployment: str,
    stage: Callable[..., Any],
    runtime: Runtime,
    ref: ArtifactRef,
    label: str,
    arguments: dict[str, Any],
) -> None:
    """Have one stage computed by the pool and wait until its artifact is in the store.

    Runs of other flows that want the same artifact in the same store share one run. Raises `WhyScoreError` when that
    run fails, is cancelled, or stays crashed.
    """
    hints = get_type_hints(stage)
    parameters = {
        "stage": ref.stage,
        "key": ref.key,
        "label": label,
        "runtime": runtime.model_dump(mode="json"),
        "arguments": {
            name: TypeAdapter(hints[name]).dump_python(value, mode="json") for name, value in arguments.items()
        },
    }
    key = artifact_key("gpu_stage", 1, {"store": ArtifactStore(runtime.store).root, "address": ref.address})
    run, attempt = _ask(deployment, parameters, label, f"{key}-0"), 0
    while _is_over(run):  # it failed before, or its artifact was removed since: not waited for again
        attempt += 1
        run = _ask(deployment, parameters, label, f"{key}-{attempt}")
    log.info("%s: waiting for the GPU pool, run %s", label, run.name)
    _wait(run.id, label)
    if not isinstance(found := ArtifactStore(runtime.store).lookup(ref.address), Manifest):
        raise WhyScoreError(
            f"{label}: the GPU pool says it is done, but {ref.address} in {runtime.store} is {found.reason}."
            " Do all workers see this store? A folder must be shared between them; s3:// always is"
        )


def compute_here(stage: str, key: str, runtime: Runtime, arguments: dict[str, Any], label: str) -> ArtifactRef:
    """Compute a stage that another worker asked for; `WhyScoreError` when this one would make another artifact."""
    if not stage.isidentifier() or find_spec(f"tasks.{stage}") is None:
        raise WhyScoreError(f"{stage}: no such stage here; the workers run different versions of WhyScore")
    run = getattr(import_module(f"tasks.{stage}"), stage)
    hints = get_type_hints(run)
    names = list(inspect.signature(run).parameters)[1:]
    given = [TypeAdapter(hints[name]).validate_python(arguments[name]) for name in names]
    found: str = run.key(*given)
    if found != key:
        raise WhyScoreError(
            f"{stage}: this worker would make artifact {found[:8]}, it was asked for {key[:8]}. The workers run"
            " different versions of WhyScore; bring them to the same one and retry the run"
        )
    ref: ArtifactRef = run(runtime, *given, label=label.removesuffix(stage).strip())
    return ref


def _ask(deployment: str, parameters: dict[str, Any], name: str, idempotency_key: str) -> "FlowRun":
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments import run_deployment

    run = run_deployment(
        deployment, parameters=parameters, flow_run_name=name, timeout=0, idempotency_key=idempotency_key
    )
    assert isinstance(run, FlowRun)
    return run


def _is_over(run: "FlowRun") -> bool:
    """Whether a run has ended for good: one that crashed just now is about to be started again."""
    state = run.state
    if state is None or not state.is_final():
        return False
    crashed_for = datetime.now(UTC) - state.timestamp
    return not (state.is_crashed() and crashed_for < RESTART_PATIENCE)


def _wait(run_id: "UUID", label: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        while not _is_over(run := client.read_flow_run(run_id)):
            time.sleep(POLL_S)
    if run.state is not None and not run.state.is_completed():
        raise WhyScoreError(
            f"{label}: run {run.name} in the GPU pool ended as {run.state.name}: {run.state.message or 'see its log'}"
        )
