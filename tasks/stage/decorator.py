"""What makes a function a stage: a key, a store artifact, and a cached Prefect task around it."""

import functools
import gc
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task
from prefect.context import TaskRunContext

from pipeline_lib.config.base import Runtime
from pipeline_lib.progress import duration
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest, artifact_key
from pipeline_lib.store.key import key_fields
from pipeline_lib.store.shards import InShards, compute_in_shards
from pipeline_lib.store.store import Attempt
from tasks.stage.cards import progress_bars, show_artifact, show_stage
from tasks.stage.gpu_pool import compute_in_pool, pool_deployment
from tasks.stage.references import artifact_references

if TYPE_CHECKING:
    from pipeline_lib.methods.self_improve.prompt import Prompt
    from pipeline_lib.vlm.engine.engine import Engine
    from pipeline_lib.vlm.load import Vlm
    from pipeline_lib.vlm.model_ref import ModelRef

log = logging.getLogger("whyscore.stage")
logging.getLogger("whyscore").setLevel(logging.INFO)  # workers have no command line that would set it


@dataclass(frozen=True)
class Work:
    """What a running stage has at hand: the store to read from, its own address there, and a folder to write to."""

    store: ArtifactStore
    address: str
    attempt: Attempt
    runtime: Runtime
    label: str
    loaded: dict[Any, Any] = field(default_factory=dict)

    def read(self, ref: ArtifactRef, name: str) -> pa.Table:
        """A table of another stage's artifact."""
        return self.store.read_table(ref.address, name)

    def write(self, name: str, table: pa.Table, schema: pa.Schema, *, extra_columns: bool = False) -> None:
        """A table of this stage's artifact."""
        self.attempt.write_table(name, table, schema, extra_columns=extra_columns)

    def vlm(self, model: "ModelRef") -> "Vlm":
        """A model, loaded when it is first asked for, in the place of the one before: two may not fit in memory."""
        from pipeline_lib.device import pick_device
        from pipeline_lib.vlm.load import load_vlm

        which = model, self.store.root, self.runtime.device
        if which not in self.loaded:
            self.loaded.clear()
            gc.collect()  # adapters and the modules they wrap hold each other
            self.loaded[which] = load_vlm(model, self.store, pick_device(self.runtime.device))
        vlm: Vlm = self.loaded[which]
        return vlm

    def engine(self, model: "ModelRef", prompt: "Prompt") -> "Engine":
        """A model behind the generation server, which is asked to prove itself once a stage; no weights are loaded."""
        from pipeline_lib.vlm.engine.engine import Engine

        which = model, prompt.text, self.runtime.generation_server, self.address
        if which not in self.loaded:
            self.loaded.clear()
            self.loaded[which] = Engine(model, prompt.text, self.store, self.runtime.generation_server)
        engine: Engine = self.loaded[which]
        return engine

    def in_shards(self, make: Callable[..., InShards], *arguments: Any) -> pa.Table:
        """The long table `make(work, *arguments)`: a shard at a time here, or shared out over a cluster before.

        `make` is a function of a module. It must not load the model: whether any shard is missing isn't known yet.
        """
        if self.runtime.dask:
            from tasks.stage.shards import spread

            spread(self, make, arguments)
        return compute_in_shards(self.store, make(self, *arguments), self.runtime.shard_rows, self.label)


def stage(
    version: int, *, gpu: bool = False, in_shards: bool = False
) -> Callable[[Callable[..., None]], Callable[..., ArtifactRef]]:
    """Make `body(work, *arguments)` a stage that is called as `stage(runtime, *arguments)` and returns a reference.

    The key is the digest of the stage's name, `version` and all arguments (see `artifact_key`); `runtime` is not part
    of it. When the store holds the artifact the body does not run, and Prefect shows the call as cached: it uses the
    same key, and reads nothing from the store (see `tasks.stage.references`). Bump `version` whenever the body's results
    change. A `label` may be given to tell two runs of a stage apart in logs and in the UI. A stage that needs the model
    says `gpu`: where there is a GPU pool it is computed there (see `tasks.stage.gpu_pool`). One whose model works `in_shards`
    alone needs no GPU where a cluster computes those.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., ArtifactRef]:
        name = body.__name__
        signature = inspect.signature(body)

        def compute(runtime: Runtime, ref: ArtifactRef, label: str, arguments: dict[str, Any]) -> ArtifactRef:
            store = ArtifactStore(runtime.store)
            if isinstance(store.lookup(ref.address), Manifest):
                return ref
            if gpu and not (in_shards and runtime.dask) and (deployment := pool_deployment()):
                compute_in_pool(deployment, body, runtime, ref, label, arguments)
                show_artifact(store, ref, label)
                return ref
            with store.attempt() as attempt, progress_bars():
                body(Work(store, ref.address, attempt, runtime, label), **arguments)
                manifest = store.publish(ref.address, attempt, key_fields(arguments))
            rows = "".join(f", {count} {table}" for table, count in manifest.rows.items())
            log.info("%s: done in %s%s", label, duration(manifest.seconds), rows)
            show_stage(store, manifest, label, cached=False)
            return ref

        prefect_task = task(
            name=name,
            description=inspect.getdoc(body),
            task_run_name="{label}",
            persist_result=True,
            result_serializer="json",
            cache_key_fn=_our_key,
        )(compute)

        def name_arguments(*args: Any) -> dict[str, Any]:
            return dict(list(signature.bind(None, *args).arguments.items())[1:])

        def key(*args: Any) -> str:
            return artifact_key(name, version, name_arguments(*args))

        @functools.wraps(body)
        def run(runtime: Runtime, *args: Any, label: str = "") -> ArtifactRef:
            arguments = name_arguments(*args)
            ref = ArtifactRef(stage=name, key=key(*args))
            title = f"{label} {name}".strip()
            store = ArtifactStore(runtime.store)
            found = store.lookup(ref.address)
            hit = isinstance(found, Manifest)
            if isinstance(found, Manifest):
                log.info("%s: cached [%s %s], computed before in %s", title, name, ref.key[:8], duration(found.seconds))
            else:
                log.info("%s: computing [%s %s], %s", title, name, ref.key[:8], found.reason)
            result: ArtifactRef = prefect_task.with_options(
                refresh_cache=not hit, result_storage=artifact_references()
            )(runtime, ref, title, arguments)
            if isinstance(found, Manifest):
                show_stage(store, found, title, cached=True)
            return result

        run.key = key  # type: ignore[attr-defined]
        return run

    return decorate


def _our_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    ref: ArtifactRef = parameters["ref"]
    return f"{ref.stage}-{ref.key}"
