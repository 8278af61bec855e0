"""Generation by a real vLLM: the handshake, and the texts of transformers, with and without adapter.

`make test-vllm` installs vLLM in an environment of its own, named by WHYSCORE_VLLM, and runs this.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

from pipeline_lib.config.base import GenerationServer
from pipeline_lib.methods.self_improve.score_pairs import generate_score_pairs_by_engine
from pipeline_lib.methods.self_improve.tables import SCORE_PAIRS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.tables.table import conform
from pipeline_lib.testing import tiny_families
from pipeline_lib.testing.tiny import PROMPT, model_ref
from pipeline_lib.testing.tiny_families import FAMILIES, save
from pipeline_lib.vlm.engine.engine import Engine, look_at
from tests.unit.vlm.test_engine import IMAGES, LENGTH, by_transformers, open_sized, put_adapter, sized_images

ENVIRONMENT = os.environ.get("WHYSCORE_VLLM")
pytestmark = pytest.mark.skipif(not ENVIRONMENT, reason="make test-vllm")
READY_S = 900
PILLOW = json.dumps({"backend": "pil"})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-1.5 with heads of 32, which vLLM's attention on a CPU needs, under the names of weights on the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_families, "HIDDEN", 64)
        patch.setitem(tiny_families._SMALL, "hidden_size", 64)
        folder = save(
            next(family for family in FAMILIES if family.name == "llava-1.5"), tmp_path_factory.mktemp("m") / "m"
        )
    file = folder / "model.safetensors"
    weights = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1): value for name, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM that resizes as we do."""
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "template.jinja").write_text("<s>" + (checkpoint / "chat_template.jinja").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bin_ = Path(str(ENVIRONMENT)).absolute() / "bin"
    own = {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        *(bin_ / "vllm", "serve", checkpoint, "--served-model-name", "tiny", "--port", port, "--dtype", "float32"),
        *("--max-model-len", 2048, "--enforce-eager", "--enable-lora", "--max-lora-rank", 64),
        *("--mm-processor-kwargs", PILLOW, "--chat-template", folder / "template.jinja"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], env=os.environ | own, stdout=log, stderr=log)
    try:
        until = time.monotonic() + READY_S
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
    except httpx.HTTPError:
        return False


def test_texts_are_those_of_transformers(server: str, checkpoint: Path, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    given = GenerationServer(base_url=server, adapters=str(tmp_path / "served"))
    assert look_at(given, "tiny") == (True, "0.32.0")
    for adapter in (None, put_adapter(store, checkpoint)):
        engine = Engine(model_ref(checkpoint, adapter=adapter), PROMPT, LENGTH, store, given)
        table = generate_score_pairs_by_engine(
            engine, sized_images(), open_sized, min_distance=3, seed=0, iteration=1, progress=Progress("pairs", IMAGES)
        )
        assert conform(table, SCORE_PAIRS.schema).to_pylist() == by_transformers(checkpoint, store, adapter)
