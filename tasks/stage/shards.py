"""Computes the missing shards of a long stage on a Dask cluster, with a Prefect task run for each.

The state after a hard crash of the waiting flow: the scheduler drops queued shards; shards under way are finished
and published. After that of a worker: another worker gets its shard, and the shards that it published count.
No value is returned: the results are the shards in the store.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipeline_lib.checks.cluster import START, check_cluster, other_versions
from pipeline_lib.config.base import Runtime
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.manifest import environment
from pipeline_lib.store.patience import expect_server
from pipeline_lib.store.shards import InShards, compute_shard, cut, is_missing
from tasks.stage import Work

log = logging.getLogger("whyscore.stage")

PATIENCE_S = 60.0

_loaded: dict[Any, Any] = {}  # a worker keeps the model between shards
_one_at_a_time = threading.Lock()


def check_workers(at: Runtime, *folders: str) -> None:
    """Raise `WhyScoreError` unless the cluster that `runtime.dask` names, if any, can take part in a run."""
    if at.dask:
        workers = check_cluster(at.dask, ArtifactStore(at.store), folders, _api())
        log.info("%d worker(s) at %s", workers, at.dask)


def spread(work: Work, make: Callable[..., InShards], arguments: tuple[Any, ...]) -> None:
    """Let the workers of the cluster compute the shards of `make(work, *arguments)` that are not in the store.

    `make` is a function of a module, and the arguments are references and settings: nothing else travels. Raises
    `WhyScoreError` when a shard's worker died again and again, when the cluster is lost, and when workers write
    elsewhere; and whatever a shard raises.
    """
    from distributed import CancelledError, KilledWorker, wait
    from distributed.comm.core import CommClosedError
    from prefect_dask.task_runners import DaskTaskRunner

    address, in_shards = work.runtime.dask, make(work, *arguments)
    shards = cut(in_shards, work.runtime.shard_rows)
    missing = {number: shard for number, shard in enumerate(shards) if is_missing(work.store, shard)}
    if not missing:
        return
    check_workers(work.runtime)
    progress = Progress(work.label, in_shards.rows.num_rows)
    progress.skip(progress.total - sum(shard.rows for shard in missing.values()))
    runtime = work.runtime.model_copy(update={"store": work.store.root})  # a relative path is another one elsewhere
    shared = {"make": make, "arguments": arguments, "runtime": runtime, "address": work.address, "label": work.label}
    log.info("%s: %d shard(s) for the cluster", work.label, len(missing))
    with (
        temporary_settings({PREFECT_API_URL: _api()}),
        DaskTaskRunner(address=address) as runner,
        runner.client.as_current(),
    ):
        runs = {}
        for number, shard in missing.items():
            run = runner.submit(_shard_task, {**shared, "number": number, "asked": environment()})
            runs[run.wrapped_future] = run, shard
        waiting = set(runs)
        try:
            while waiting:
                try:
                    done, waiting = wait(list(waiting), PATIENCE_S, "FIRST_COMPLETED")
                except TimeoutError:
                    if not runner.client.nthreads():
                        log.warning("%s: no worker is left at %s; start one to continue", work.label, address)
                    continue
                for future in done:
                    run, shard = runs[future]
                    run.result()
                    progress.advance(shard.rows)
        except KilledWorker as error:
            raise WhyScoreError(
                f"{work.label}: several workers died while they computed the same shard ({error});"
                " the log of a worker says why. Out of memory? Set runtime.generation_batch_size lower"
            ) from error
        except (CancelledError, CommClosedError) as error:  # the latter while a result was fetched
            raise WhyScoreError(
                f"{work.label}: the Dask scheduler at {address} is gone. Finished shards are in the store: start"
                f" {START}, and run again"
            ) from error
    if lost := [shard.address for shard in missing.values() if is_missing(work.store, shard)]:
        raise WhyScoreError(
            f"{work.label}: the workers at {address} report success, but {lost[0]} is not in {work.store.root}."
            " Do all of them see this store? A folder must be shared between them; s3:// always is"
        )


def compute_one(
    make: Callable[..., InShards],
    arguments: tuple[Any, ...],
    runtime: Runtime,
    address: str,
    label: str,
    number: int,
    asked: dict[str, Any],
) -> None:
    """Compute a shard that a stage elsewhere asked for, one at a time in this process, whatever its threads are."""
    if difference := other_versions(asked):
        raise WhyScoreError(f"{label}: this worker {difference}")
    expect_server()
    store = ArtifactStore(runtime.store)
    with _one_at_a_time, store.attempt() as attempt:
        work = Work(store, address, attempt, runtime, label, _loaded)
        in_shards = make(work, *arguments)
        shard = cut(in_shards, runtime.shard_rows)[number]
        compute_shard(store, in_shards, shard, Progress(f"{label} from row {shard.first_row}", shard.rows), work.writer)


# Another name than the function's, or else it is sent as code with a copy of this module's state.
_shard_task = task(name="shard", task_run_name="{label} shard {number}", persist_result=False, cache_policy=NO_CACHE)(
    compute_one
)


def _api() -> str:
    """The API of the flow run that this is part of, also where Prefect started a temporary server for it."""
    context = SyncClientContext.get()
    return str(context.client.api_url) if context else str(PREFECT_API_URL.value())
