"""A stage that a worker of the GPU pool computes while its flow waits on a CPU worker.

The state after a hard crash of the waiting flow: the stage's own flow run continues. When the flow starts again it
finds that run by its idempotency key and waits for it, instead of starting another. No value is returned: the result is
the artifact in the store.
"""

import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pydantic import TypeAdapter

from pipeline_lib.config.base import Runtime
from pipeline_lib.device import check_memory
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest, artifact_key
from pipeline_lib.store.patience import expect_server
from tasks.stage.cards import cards_of_run, run_name

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

    from tasks.stage.decorator import Stage

log = logging.getLogger("whyscore.stage")
Answer = TypeVar("Answer")

DEPLOYMENT = "WHYSCORE_GPU_STAGES"
"""Environment variable that names the deployment which computes stages that need the model; unset: they run here."""

POLL_S = 0.5
RESTART_PATIENCE = timedelta(seconds=90)
"""How long a crashed run may stay crashed: the automation starts it again within seconds."""

RESTARTS = 3
"""How often the waiting flow restarts a crashed run that the automation did not restart."""


def pool_deployment() -> str | None:
    """The deployment that computes GPU stages; None if this process computes them."""
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
        "stage": stage.__module__.removeprefix("tasks."),
        "key": ref.key,
        "label": label,
        "run": run_name(),
        "runtime": runtime.model_dump(mode="json"),
        "arguments": {
            name: TypeAdapter(hints[name]).dump_python(value, mode="json") for name, value in arguments.items()
        },
    }
    key = artifact_key("gpu_stage", 1, {"store": ArtifactStore(runtime.store).root, "address": ref.address})
    name = f"{parameters['run']} {label}".strip()
    run, attempt = _ask(deployment, parameters, name, f"{key}-0"), 0
    while _is_over(run):  # it failed before, or its artifact was removed since: start a new one
        attempt += 1
        run = _ask(deployment, parameters, name, f"{key}-{attempt}")
    log.info("%s: waiting for the GPU pool, run %s", label, run.name)
    _wait(run.id, label)
    if not isinstance(found := ArtifactStore(runtime.store).lookup(ref.address), Manifest):
        raise WhyScoreError(
            f"{label}: the GPU pool reports success, but {ref.address} in {runtime.store} is {found.reason}."
            " Do all workers see this store? A folder must be shared between them; s3:// always is"
        )


def compute_here(
    stage: str, key: str, runtime: Runtime, arguments: dict[str, Any], label: str, of_run: str = ""
) -> ArtifactRef:
    """Compute a stage (`<package>.<name>`) that another worker asked for, if this machine has the recipe's memory.

    Raises `WhyScoreError` when there is less, or when this worker would make another artifact.
    """
    from tasks.stage.decorator import At

    expect_server()
    check_memory(runtime)
    if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", stage) or _spec(f"tasks.{stage}") is None:
        raise WhyScoreError(f"{stage}: no such stage here; the workers run different versions of WhyScore")
    name = stage.rpartition(".")[2]
    run: Stage[...] = getattr(import_module(f"tasks.{stage}"), name)
    hints = get_type_hints(run.body)
    given = {name: TypeAdapter(hints[name]).validate_python(value) for name, value in arguments.items()}
    found = run.key(**given)
    if found != key:
        raise WhyScoreError(
            f"{stage}: this worker would make artifact {found[:8]} instead of {key[:8]}. The workers run"
            " different versions of WhyScore; bring them to the same one and retry the run"
        )
    with cards_of_run(of_run):
        return run(At(runtime, label.removesuffix(name).strip()), **given)


def _spec(module: str) -> object:
    try:
        return find_spec(module)
    except ModuleNotFoundError:  # not even its package
        return None


def _ask(deployment: str, parameters: dict[str, Any], name: str, idempotency_key: str) -> "FlowRun":
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments import run_deployment

    run = _patiently(
        lambda: run_deployment(
            deployment, parameters=parameters, flow_run_name=name, timeout=0, idempotency_key=idempotency_key
        )
    )
    assert isinstance(run, FlowRun)
    return run


def _is_over(run: "FlowRun") -> bool:
    """Whether a run is over for good; one that crashed just now may be started again."""
    state = run.state
    if state is not None and state.is_cancelling():
        return True
    if state is None or not state.is_final():
        return False
    crashed_for = datetime.now(UTC) - state.timestamp
    return not (state.is_crashed() and crashed_for < RESTART_PATIENCE)


def _wait(run_id: "UUID", label: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    restarts = 0
    try:
        with get_client(sync_client=True) as client:
            while True:
                run = _patiently(lambda: client.read_flow_run(run_id))
                state = run.state
                if state is not None and state.is_crashed() and _is_over(run) and restarts < RESTARTS:
                    restarts += 1
                    # The automation misses runs that never ran, and events that a restarted server held back (3.8.8).
                    _patiently(lambda: client.set_flow_run_state(run_id, Scheduled(name="AwaitingRetry")))
                elif _is_over(run):
                    break
                time.sleep(POLL_S)
    except BaseException:  # a process that is asked to end gets Prefect's TerminationSignal, whatever the reason
        _cancel_if_we_are(run_id)
        raise
    if state is not None and not state.is_completed():
        raise WhyScoreError(
            f"{label}: run {run.name} in the GPU pool ended as {state.name}: {state.message or 'see its log'}"
        )


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """The server's answer, however long it takes: a run that waits for a GPU survives an unreachable server."""
    import httpx

    while True:
        try:
            return ask()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                raise
            log.warning("the Prefect server has an internal error (%s); trying again", error.response.status_code)
        except httpx.TransportError as error:
            log.warning("the Prefect server does not answer (%r); trying again", error)
        time.sleep(POLL_S)


def _cancel_if_we_are(run_id: "UUID") -> None:
    """Cancel the stage's run at once; Prefect would do so a minute after the waiting run has ended."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run
    from prefect.states import Cancelling

    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:  # the signal that ends this run comes first
        own = client.read_flow_run(flow_run.id).state
        if own is not None and own.is_cancelling():
            client.set_flow_run_state(run_id, Cancelling(message="The run that waits for this stage was cancelled."))
