"""What travels to the GPU pool: names and JSON, from which the same artifact must come out."""

import json
from importlib import import_module
from typing import Any, get_args, get_type_hints

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter

from pipeline_lib.config.base import Model, Runtime, Split
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.errors import ModelError, WhyScoreError
from pipeline_lib.methods.self_improve.inputs import GenerationInputs, Inputs
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.methods.self_improve.training import dpo_job
from pipeline_lib.store import ArtifactRef
from pipeline_lib.train.job import TrainingJob
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from tasks.stage.gpu_pool import _patiently, compute_here

GPU_STAGES = (
    "generate", "evaluate", "compute_reference", "train_score", "train_consistency", "train_sft", "ties_merge",
    "probe_faithfulness",
)  # fmt: skip


def example(name: str, hint: Any) -> Any:
    """A value for a stage's argument, with everything set that a default would hide."""
    table = ArtifactRef(stage="discretize", key="0" * 64)
    model = resolve_model(Model(id="bundled", max_tiles=3)).with_adapter(ArtifactRef(stage="merge", key="1" * 64))
    images = ImageSet(table=table, folder="s3://images", max_megapixels=50.0)
    inputs = GenerationInputs(model=model, prompt=load_prompt("aesthetics"), images=images, max_new_tokens=9)
    known: dict[Any, Any] = {
        GenerationInputs: inputs,
        Inputs: inputs.inputs,
        TrainingJob: dpo_job(Training(), inputs, seed=7, iteration=2),
        ModelRef: inputs.model,
        tuple[Split, ...]: ("val", "test"),
    }
    if hint in known:
        return known[hint]
    if hint in (ArtifactRef, ArtifactRef | None):
        return ArtifactRef(stage=name, key="2" * 64)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint()
    return get_args(hint)[0] if get_args(hint) else hint(7)


@pytest.mark.parametrize("stage", GPU_STAGES)
def test_arguments_keep_their_key_through_json(stage: str) -> None:
    run = getattr(import_module(f"tasks.self_improve.{stage}"), stage)
    hints = {name: hint for name, hint in get_type_hints(run.body).items() if name not in ("work", "return")}
    given = {name: example(name, hint) for name, hint in hints.items()}
    sent = json.dumps({name: TypeAdapter(hints[name]).dump_python(given[name], mode="json") for name in hints})
    received = [TypeAdapter(hints[name]).validate_python(value) for name, value in json.loads(sent).items()]
    assert received == list(given.values())
    assert run.key(*received) == run.key(*given.values())


def test_a_worker_of_another_version_refuses() -> None:
    arguments = {"config": {"fraction": 0.5}, "score_pairs": {"stage": "generate", "key": "3" * 64}}
    with pytest.raises(WhyScoreError, match="different versions"):
        compute_here("self_improve.swap", "0" * 64, Runtime(), {**arguments, "seed": 1, "iteration": 2}, "ite-2 swap")
    with pytest.raises(WhyScoreError, match="no such stage"):
        compute_here("os", "0" * 64, Runtime(), {}, "")


def test_the_machine_that_computes_must_have_the_memory() -> None:
    with pytest.raises(ModelError, match="the recipe needs 9999 GB"):
        compute_here("generate", "0" * 64, Runtime(device="cpu", min_memory_gb=9999), {}, "ite-1 generate")


def test_who_waits_outlives_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    request = httpx.Request("GET", "http://127.0.0.1/api")

    def answer(status: int) -> httpx.HTTPStatusError:
        return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))

    coming: list[Exception] = [answer(503), httpx.ConnectError("refused"), answer(500)]

    def ask() -> str:
        if coming:
            raise coming.pop(0)
        return "there"

    monkeypatch.setattr("tasks.stage.gpu_pool.POLL_S", 0)
    assert _patiently(ask) == "there"
    coming = [answer(401)]
    with pytest.raises(httpx.HTTPStatusError):
        _patiently(ask)
