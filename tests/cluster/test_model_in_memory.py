"""A process that computes shards has one model in memory."""

import weakref
from pathlib import Path

from pipeline_lib.config.base import Model, Runtime
from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.model_ref import resolve_model
from tasks.stage import Work


def test_a_model_is_kept_until_another_one_is_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    store, loaded = ArtifactStore(str(tmp_path)), {}
    ref = resolve_model(Model(id=str(tiny_model), dtype="float32"))
    with store.attempt() as attempt:
        one, other = (Work(store, "a", attempt, Runtime(device="cpu"), label, loaded) for label in ("one", "other"))
        first = weakref.ref(one.vlm(ref).model)
        assert other.vlm(ref).model is first()
        assert other.vlm(ref.model_copy(update={"dtype": "bfloat16"})).model.dtype.itemsize == 2
        assert first() is None and len(loaded) == 1
