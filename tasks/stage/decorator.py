"""Makes a function a stage: a key, a store artifact, and a cached Prefect task around it."""

import functools
import gc
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

import pyarrow as pa
from prefect import task
from prefect.context import TaskRunContext

from pipeline_lib.config.base import Runtime
from pipeline_lib.errors import LostArtifactError, WhyScoreError
from pipeline_lib.progress import duration
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest, Miss, artifact_key
from pipeline_lib.store.gc import references
from pipeline_lib.store.key import key_fields
from pipeline_lib.store.shards import InShards, Writer, compute_in_shards
from pipeline_lib.store.store import Attempt
from pipeline_lib.tables.table import Table
from tasks.stage.cards import progress_bars, show_artifact, show_stage
from tasks.stage.gpu_pool import compute_in_pool, pool_deployment
from tasks.stage.plan import is_planning, note
from tasks.stage.references import artifact_references
from tasks.stage.trackers import track_stage
from tasks.stage.whole_run import note_stage

if TYPE_CHECKING:
    from pipeline_lib.vlm.engine.engine import Engine
    from pipeline_lib.vlm.load import Vlm
    from pipeline_lib.vlm.model_ref import ModelRef

log = logging.getLogger("whyscore.stage")
P = ParamSpec("P")
T = TypeVar("T")
logging.getLogger("whyscore").setLevel(logging.INFO)  # workers have no command line that would set it


@dataclass(frozen=True)
class Work:
    """The tools of a running stage: the store to read from, its own address there, and a folder to write to."""

    store: ArtifactStore
    address: str
    attempt: Attempt
    runtime: Runtime
    label: str
    loaded: dict[Any, Any] = field(default_factory=dict)

    def read(self, ref: ArtifactRef, name: str) -> pa.Table:
        """A table of another stage's artifact."""
        return self.store.read_table(ref.address, name)

    def write(self, table: Table, rows: pa.Table, *, extra_columns: bool = False) -> None:
        """A table of this stage's artifact."""
        self.attempt.write_table(table, rows, extra_columns=extra_columns)

    def note_scratch(self, folder: str) -> None:
        """Note in the manifest that the artifact is computed from the shards or checkpoints in this folder."""
        self.attempt.scratch.add(folder)

    def note_device(self, count: int = 1) -> None:
        """Note in the manifest what the model of this stage runs on."""
        from pipeline_lib.device import device_name, pick_device

        self.attempt.device, self.attempt.device_count = device_name(pick_device(self.runtime.device)), count

    @property
    def writer(self) -> Writer:
        """This stage as its shards name it."""
        return Writer(self.address, self.label)

    def vlm(self, model: "ModelRef") -> "Vlm":
        """A model, loaded at first use; the model before is freed, because two may not fit in memory."""
        from pipeline_lib.device import pick_device
        from pipeline_lib.vlm.load import load_vlm

        which = model, self.store.root, self.runtime.device
        if which not in self.loaded:
            self.loaded.clear()
            gc.collect()  # adapters and the modules they wrap hold each other
            self.loaded[which] = load_vlm(model, self.store, pick_device(self.runtime.device))
        self.note_device()
        vlm: Vlm = self.loaded[which]
        return vlm

    def engine(self, model: "ModelRef", prompt: str, max_new_tokens: int) -> "Engine":
        """A model on the generation server, which is tested once a stage; no weights are loaded."""
        from pipeline_lib.vlm.engine.engine import Engine

        which = model, prompt, max_new_tokens, self.runtime.generation_server, self.address
        if which not in self.loaded:
            self.loaded.clear()
            self.loaded[which] = Engine(
                model, prompt, max_new_tokens, self.store, self.runtime.generation_server, self.runtime.device
            )
        engine: Engine = self.loaded[which]
        return engine

    def in_shards(self, make: Callable[..., InShards], *arguments: Any) -> pa.Table:
        """The long table `make(work, *arguments)`, computed shard by shard here or on a cluster.

        `make` is a function of a module. It must not load the model: maybe no shard is missing.
        """
        if self.runtime.dask:
            from tasks.stage.shards import spread

            spread(self, make, arguments)
        in_shards = make(self, *arguments)
        self.note_scratch(in_shards.folder)
        return compute_in_shards(self.store, in_shards, self.runtime.shard_rows, self.writer)


class At(NamedTuple):
    """How and where stages are computed, and the label that tells two calls of a stage apart in logs and in the UI.

    All labels of a run can begin alike (`control`), where one flow makes several runs.
    """

    runtime: Runtime
    label: str = ""
    begins: str = ""

    @classmethod
    def beginning(cls, runtime: Runtime, begins: str) -> "At":
        """All labels begin with a word; none for an empty one."""
        return cls(runtime, begins, begins)

    def labelled(self, label: str) -> "At":
        """The same under another label."""
        return self._replace(label=f"{self.begins} {label}".strip())


class Stage(Generic[P]):
    """A function `body(work, *arguments)` as a stage: `stage(at, *arguments)` returns a reference to its artifact.

    The key is the digest of the stage's name, version and arguments (see `artifact_key`); nothing of `at` is part of
    it. When the store holds the artifact the body does not run, and Prefect shows the call as cached: it uses the same
    key, and reads nothing from the store (see `tasks.stage.references`).
    """

    def __init__(self, body: Callable[Concatenate[Work, P], None], version: int, *, gpu: bool, in_shards: bool):
        functools.update_wrapper(self, body)
        self.body, self.version, self.gpu, self.in_shards = body, version, gpu, in_shards
        self.name = body.__name__
        self.signature = inspect.signature(body)
        self._task = task(
            name=self.name,
            description=inspect.getdoc(body),
            task_run_name="{label}",
            persist_result=True,
            result_serializer="json",
            cache_key_fn=_our_key,
        )(self._compute)

    def arguments(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """The arguments of a call by their names, defaults included."""
        bound = self.signature.bind(None, *args, **kwargs)
        bound.apply_defaults()
        return dict(list(bound.arguments.items())[1:])

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of the artifact that a call makes."""
        return artifact_key(self.name, self.version, self.arguments(*args, **kwargs))

    def __call__(self, at: At, *args: P.args, **kwargs: P.kwargs) -> ArtifactRef:
        """Compute the artifact unless the store holds it, and again those inputs that turn out to be damaged."""
        arguments = self.arguments(*args, **kwargs)
        ref = ArtifactRef(stage=self.name, key=artifact_key(self.name, self.version, arguments))
        title = f"{at.label} {self.name}".strip()
        store = ArtifactStore(at.runtime.store)
        found = store.lookup(ref.address)
        if is_planning():
            note(title, ref, key_fields(arguments), found)
            return ref
        _called[store.root, ref.address] = functools.partial(self, at, *args, **kwargs)
        hit = isinstance(found, Manifest)
        if isinstance(found, Manifest):
            before = duration(found.seconds)
            log.info("%s: cached [%s %s], computed before in %s", title, self.name, ref.key[:8], before)
        else:
            log.info("%s: computing [%s %s], %s", title, self.name, ref.key[:8], found.reason)
        call = self._task.with_options(refresh_cache=not hit, result_storage=artifact_references())
        result: ArtifactRef = call(at.runtime, ref, title, arguments)
        track_stage(at.runtime, ref, title)
        note_stage(at.runtime, ref, title, cached=hit)
        if isinstance(found, Manifest):
            shown = found
            with_whole_inputs(store, lambda: show_stage(store, shown, title, cached=True))
        return result

    def _compute(self, runtime: Runtime, ref: ArtifactRef, label: str, arguments: dict[str, Any]) -> ArtifactRef:
        """What the Prefect task runs; when an input is lost, it runs the task of that input first."""
        store = ArtifactStore(runtime.store)
        return with_whole_inputs(store, lambda: self._compute_once(store, runtime, ref, label, arguments))

    def _compute_once(
        self, store: ArtifactStore, runtime: Runtime, ref: ArtifactRef, label: str, arguments: dict[str, Any]
    ) -> ArtifactRef:
        if isinstance(store.lookup(ref.address), Manifest):
            return ref
        if self.gpu and not (self.in_shards and runtime.dask) and (deployment := pool_deployment()):
            try:
                compute_in_pool(deployment, self.body, runtime, ref, label, arguments)
            except WhyScoreError as error:  # the worker removes a damaged input, but does not know how to compute it
                lost = [at for at in references(key_fields(arguments)) if isinstance(store.lookup(at), Miss)]
                if lost:
                    raise LostArtifactError(lost[0], str(error)) from error
                raise
            show_artifact(store, ref, label)
            return ref
        with store.attempt() as attempt, progress_bars():
            self.body(Work(store, ref.address, attempt, runtime, label), **arguments)  # type: ignore[call-arg]
            manifest = store.publish(ref.address, attempt, key_fields(arguments))
        rows = "".join(f", {count} {table}" for table, count in manifest.rows.items())
        log.info("%s: done in %s%s", label, duration(manifest.seconds), rows)
        show_stage(store, manifest, label, cached=False)
        return ref


_called: dict[tuple[str, str], Callable[[], ArtifactRef]] = {}
"""The calls of stages in this process by store and address: how to compute an artifact again."""


def with_whole_inputs(store: ArtifactStore, work: Callable[[], T]) -> T:
    """The result of `work`; when one of its inputs is lost, that input is computed again, and so is `work`.

    Raises `LostArtifactError` when this process does not know how to compute the input, or when it is lost twice.
    Nothing of the work that failed is in memory meanwhile, because two models may not fit there.
    """
    again: set[str] = set()
    while True:
        try:
            return work()
        except LostArtifactError as error:
            lost = error.address
            if lost in again or (store.root, lost) not in _called:
                raise
        again.add(lost)
        _called[store.root, lost]()


def stage(
    version: int, *, gpu: bool = False, in_shards: bool = False
) -> Callable[[Callable[Concatenate[Work, P], None]], Stage[P]]:
    """Make a function a stage. Bump `version` whenever its results change.

    A stage that needs the model says `gpu`: where there is a GPU pool it is computed there (see
    `tasks.stage.gpu_pool`). One whose model works `in_shards` alone needs no GPU where a cluster computes those.
    """

    def decorate(body: Callable[Concatenate[Work, P], None]) -> Stage[P]:
        return Stage(body, version, gpu=gpu, in_shards=in_shards)

    return decorate


def _our_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    ref: ArtifactRef = parameters["ref"]
    return f"{ref.stage}-{ref.key}"
