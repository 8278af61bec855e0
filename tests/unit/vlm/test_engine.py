"""Explanations from a generation server: the same texts, and a server that is not what it should be is refused."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from pipeline_lib import openai_server
from pipeline_lib.config.base import GenerationServer
from pipeline_lib.errors import DataError, EngineError, RecipeError
from pipeline_lib.methods.self_improve import tables
from pipeline_lib.methods.self_improve.score_pairs import generate_score_pairs, generate_score_pairs_by_engine
from pipeline_lib.methods.self_improve.tables import SCORE_PAIRS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.engine_server import EngineServer, running
from pipeline_lib.testing.judge_server import judge_server, raw
from pipeline_lib.testing.tiny import PROMPT, image_table, model_ref, picture
from pipeline_lib.testing.tiny_families import FAMILIES, VICUNA, save
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.engine import request as engine_request
from pipeline_lib.vlm.engine.adapter import adapter_name
from pipeline_lib.vlm.engine.engine import Engine, check_vllm, look_at, own_generation_config
from pipeline_lib.vlm.load import load_base, load_vlm

IMAGES, LENGTH = 4, 6
MOST = "internvl-internlm2"
"""The family of most tests."""

KEY = "engine-key-0123456789"
SIZES = [(28, 28), (60, 30), (30, 90), (112, 84)]


def sized_images() -> pa.Table:
    table = image_table(IMAGES)
    for at, column in enumerate(("width_px", "height_px")):
        sides = pa.array([size[at] for size in SIZES], tables.IMAGES.schema.field(column).type)
        table = table.set_column(table.schema.get_field_index(column), tables.IMAGES.schema.field(column), sides)
    return table


def open_sized(image: str, sha256: str) -> Image.Image:
    """A picture as `open_image` gives it, with what its file held beside the pixels."""
    size = SIZES[int(image.removeprefix("train-").removesuffix(".png"))]
    found = picture(image, side_px=128).crop((0, 0, *size))
    found.info = {"icc_profile": b"not a profile", "exif": b"Exif\0\0", "image": image}
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name == "tiny":
            return tiny_model
        if name not in made:
            family = next(family for family in FAMILIES if family.name == name)
            made[name] = save(family, tmp_path_factory.mktemp(name) / "model")
        return made[name]

    return folder


def put_adapter(store: ArtifactStore, folder: Path, key: str = "a" * 64, strength: float = 1.0) -> ArtifactRef:
    """An adapter of noise that changes what the model says, in the store."""
    model = load_base(model_ref(folder), torch.device("cpu")).model
    peft = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q_proj|down_proj)")
    )
    torch.manual_seed(1)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=strength)
    ref = ArtifactRef(stage="ties_merge", key=key)
    with store.attempt() as attempt:
        peft.save_pretrained(str(attempt.folder))
        store.publish(ref.address, attempt, arguments={})
    return ref


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def lasting(folders: Callable[[str], Path]) -> Iterator[EngineServer]:
    """One server for many tests; each finds it well."""
    with running(EngineServer(folders(MOST))) as server:
        yield server


@pytest.fixture
def server(lasting: EngineServer, monkeypatch: pytest.MonkeyPatch) -> EngineServer:
    monkeypatch.setattr(openai_server, "FIRST_WAIT_S", 0.01)
    lasting.faults, lasting.fail, lasting.can_load, lasting.hangs, lasting.delay_s = set(), [], True, False, 0.0
    lasting.adapters.clear()
    lasting.requests.clear()
    lasting.images.clear()
    return lasting


Generate = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def generate(store: ArtifactStore, tmp_path: Path, folders: Callable[[str], Path]) -> Generate:
    def call(server: EngineServer, adapter: ArtifactRef | None = None, family: str = MOST, **fields: Any):  # type: ignore[no-untyped-def]
        given: dict[str, Any] = {
            "base_url": server.url,
            "adapters": str(tmp_path / "served"),
            "max_retries": 2,
        } | fields
        ref = model_ref(folders(family), adapter=adapter)
        engine = Engine(ref, PROMPT, LENGTH, store, GenerationServer(**given))
        table = generate_score_pairs_by_engine(
            engine, sized_images(), open_sized, min_distance=3, seed=0, iteration=1, progress=Progress("pairs", IMAGES)
        )
        return conform(table, SCORE_PAIRS.schema).to_pylist()

    return call


def by_transformers(folder: Path, store: ArtifactStore, adapter: ArtifactRef | None = None) -> list[dict[str, Any]]:
    vlm = load_vlm(model_ref(folder, adapter=adapter), store, torch.device("cpu"))
    table = generate_score_pairs(
        vlm, render_chat(vlm.processor, PROMPT), sized_images(), open_sized, min_distance=3, max_new_tokens=LENGTH,
        batch_size=4, seed=0, iteration=1, progress=Progress("pairs", IMAGES),
    )  # fmt: skip
    return conform(table, SCORE_PAIRS.schema).to_pylist()


@pytest.mark.parametrize(
    ("family", "kind", "template"),
    [
        ("llava-1.5", "vllm", "<s>" + VICUNA),  # a blank before the answer; see docs/engines.md
        ("internvl-internlm2", "vllm", None),  # no begin token in its template
        ("tiny", "sglang", None),  # a blank before the answer, which is not the template's there
    ],
)
def test_a_server_writes_what_transformers_writes(
    family: str, kind: Any, template: str | None, folders: Callable[[str], Path], generate: Generate,
    store: ArtifactStore,
) -> None:  # fmt: skip
    own = {"compare_pixels": kind == "vllm"}  # SGLang does not tell an answer's tokens
    with running(EngineServer(folders(family), kind, template)) as server:
        adapter = put_adapter(store, folders(family))
        base, adapted = generate(server, family=family, **own), generate(server, adapter, family=family, **own)
    assert base == by_transformers(folders(family), store)
    assert adapted == by_transformers(folders(family), store, adapter)
    assert sum(row["chosen"] != other["chosen"] for row, other in zip(base, adapted, strict=True)) >= IMAGES - 1
    for row in base:
        assert row["chosen"].startswith(f"#Score: {row['true_score']}\n\n#Explain:")


def test_texts_are_read_from_the_tokens(server: EngineServer, generate: Generate) -> None:
    expected = generate(server)
    server.faults = {"drops the last character"}
    assert generate(server) == expected


def test_only_a_new_enough_vllm_takes_adapters_of_a_family(server: EngineServer) -> None:
    given = GenerationServer(base_url=server.url)
    assert look_at(given, "tiny") == (True, "0.32.0")
    for version, kind, fine in [
        ("0.32.0", "llava_next", True),
        ("0.31.9+cpu", "llava_next", False),
        ("0.13.0", "llava", False),
        ("0.14.0rc1", "llava", True),
        ("0.9.2", "qwen2_5_vl", False),
        ("1.0", "internvl", True),
        ("0.40", "fast_vlm", False),
        (None, "llava", True),
    ]:
        with nullcontext() if fine else pytest.raises(EngineError, match=kind):
            check_vllm(version, kind)


def test_the_server_sees_the_very_pixels(server: EngineServer, generate: Generate) -> None:
    generate(server)
    seen = {np.asarray(image).tobytes() for image in server.images}
    names = [f"train-{at}.png" for at in range(IMAGES)]
    assert seen == {np.asarray(open_sized(name, "")).tobytes() for name in names}


def test_answers_that_end_by_themselves_are_told_from_those_that_are_cut(
    folders: Callable[[str], Path], generate: Generate, store: ArtifactStore, tmp_path: Path
) -> None:
    import json
    import shutil

    shutil.copytree(folders(MOST), tmp_path / "ends")
    path = tmp_path / "ends" / "generation_config.json"
    often = folders(MOST)
    vlm = load_base(model_ref(often), torch.device("cpu"))
    texts = [row["chosen"].partition("#Explain:")[2] for row in by_transformers(often, store)]
    ids = [set(vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    end = min(token for token in set.union(*ids) - set.intersection(*ids) if token > 2)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, end]}))
    assert own_generation_config(model_ref(tmp_path / "ends")).eos_token_id == [2, end]
    with running(EngineServer(often)) as server:  # which knows nothing of the end token: it is told
        engine = Engine(
            model_ref(tmp_path / "ends"), PROMPT, LENGTH, store,
            GenerationServer(base_url=server.url, adapters=str(tmp_path)),
        )  # fmt: skip
        rows = generate_score_pairs_by_engine(
            engine, sized_images(), open_sized, min_distance=3, seed=0, iteration=1, progress=Progress("pairs", IMAGES)
        ).to_pylist()
    expected = by_transformers(tmp_path / "ends", store)
    assert conform(pa.Table.from_pylist(rows), SCORE_PAIRS.schema).to_pylist() == expected
    ended = [row[f"{side}_finished"] for row in rows for side in ("chosen", "rejected")]
    assert any(ended) and not all(ended)


@pytest.mark.parametrize("family", [MOST, "llava-1.5", "qwen2.5-vl"])
def test_end_tokens_are_those_of_the_loaded_model(family: str, folders: Callable[[str], Path]) -> None:
    ref = model_ref(folders(family))
    loaded = load_base(ref, torch.device("cpu")).model.generation_config.eos_token_id
    assert own_generation_config(ref).eos_token_id == loaded


@pytest.mark.parametrize("family", ["llava-interleave", "tiny"])
def test_a_template_that_writes_another_turn_for_an_answer_than_for_the_beginning_of_one_is_refused(
    family: str, folders: Callable[[str], Path], generate: Generate
) -> None:
    with (
        running(EngineServer(folders(family))) as server,
        pytest.raises(EngineError, match="other tokens"),
    ):
        generate(server, family=family)


REFUSALS = {
    "falls back": r"adapter that does not exist",
    "adapter ignored": r"8 of 8 answers of whyscore-aaaaaaaaaaaa .*tiny without adapter",
    "new turn": r"other tokens .*\d+ or \d+",
    "other template": r"other tokens .*\d+ or \d+",
    "repeats": r"'#Score: 0",
    "cuts": r" 3 tokens, model\.max_new_tokens is 6; .*--max-model-len",
    "another answers": r"'tiny' .*'whyscore-aaaaaaaaaaaa'",
    "no list": r"list its models",
    "tells no tokens": r"return_token_ids",
    "other pixels": r"sees other pixels.* 0\.002 are allowed \(8 texts\).*backend",
    "tells no log-probabilities": r"logprobs.*compare_pixels",
}
"""The faults of a server, and the values that each error names."""


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_server_that_is_not_what_it_should_be_is_refused(
    fault: Any,
    server: EngineServer,
    generate: Generate,
    store: ArtifactStore,
    folders: Callable[[str], Path],
) -> None:
    server.faults = {fault}
    with pytest.raises(EngineError, match=REFUSALS[fault]) as caught:
        generate(server, put_adapter(store, folders(MOST)))
    assert str(caught.value).startswith(f"generation server 127.0.0.1:{server.port}: ")


def test_a_base_under_another_name_is_asked_by_it(server: EngineServer, generate: Generate) -> None:
    server.name = "llava"
    try:
        with pytest.raises(EngineError, match=r"tiny.* llava.*generation_server\.model"):
            generate(server)
        assert not server.requests
        assert len(generate(server, model="llava")) == IMAGES
    finally:
        server.name = "tiny"


def test_an_adapter_is_loaded_once_by_the_name_of_its_key(
    server: EngineServer, generate: Generate, store: ArtifactStore, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    one, other = (put_adapter(store, folders(MOST), key * 64) for key in "bc")
    generate(server, one)
    assert list(server.adapters) == [adapter_name(one)] == ["whyscore-" + "b" * 12]
    folder = Path(server.adapters[adapter_name(one)])
    assert folder == tmp_path / "served" / adapter_name(one) and (folder / "adapter_config.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "can_load", False)
        generate(server, one)
    generate(server, other)
    assert list(server.adapters) == [adapter_name(one), adapter_name(other)]
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted(server.adapters)


def test_a_server_that_cannot_load_is_served_by_hand_and_the_run_goes_on(
    server: EngineServer, generate: Generate, store: ArtifactStore, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = put_adapter(store, folders(MOST), "d" * 64)
    server.can_load = False
    name, path = adapter_name(adapter), tmp_path / "served" / adapter_name(adapter)
    with pytest.raises(EngineError, match="cannot load adapters") as caught:
        generate(server, adapter)
    said = str(caught.value)
    assert f"--lora-modules {name}={path}" in said
    root = server.url.removesuffix("/v1")
    assert re.search(rf"vLLM: .*{root}/v1/load_lora_adapter .*SGLang: .*{root}/load_lora_adapter ", said)
    server.load(name, str(path))
    assert len(generate(server, adapter)) == IMAGES


def test_a_folder_that_the_server_does_not_see_is_named(
    server: EngineServer, generate: Generate, store: ArtifactStore, folders: Callable[[str], Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from pipeline_lib.vlm.engine import adapter as engine_adapter

    monkeypatch.setattr(engine_adapter, "_put", lambda ref, store, folder: Path("/nowhere") / folder.name)
    with pytest.raises(EngineError, match=r"HTTP 404: .*/nowhere/whyscore-e+ cannot be found"):
        generate(server, put_adapter(store, folders(MOST), "e" * 64))


def test_what_passes_is_waited_for_and_what_does_not_ends_with_its_reason(
    server: EngineServer, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHYSCORE_ENGINE_KEY", KEY)
    server.keys.clear()
    server.fail = [503, 429, 200, 503]
    assert len(generate(server)) == IMAGES
    assert server.keys == {f"Bearer {KEY}"}
    server.fail = [503] * 99
    with pytest.raises(EngineError, match=r"HTTP 503: not now .*attempt 3 of 3") as caught:
        generate(server)
    assert KEY not in str(caught.value)
    server.fail = [401]
    with pytest.raises(EngineError, match=r"401.*WHYSCORE_ENGINE_KEY"):
        generate(server)
    server.fail, server.hangs = [], True
    with pytest.raises(EngineError, match=r"0\.2 s \(attempt 2 of 2\)"):
        generate(server, timeout_s=0.2, max_retries=1)
    server.hangs = False
    with pytest.raises(EngineError, match="cannot be reached"):
        generate(server, base_url="http://127.0.0.1:9/v1", max_retries=0)


def test_no_image_is_sent_on_to_another_address(server: EngineServer) -> None:
    server.requests.clear()
    with judge_server() as proxy:
        proxy.otherwise = raw(307, {}, {"Location": f"{server.url}/chat/completions"})
        client = engine_request.connect(GenerationServer(base_url=proxy.url))
        body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "an image"}]}
        reply = asyncio.run(engine_request.ask_once(client, GenerationServer(base_url=proxy.url), body))
    assert isinstance(reply, openai_server.Failure) and not reply.retry
    assert f"HTTP 307) to 127.0.0.1:{server.port}" in reply.reason and not server.requests


@pytest.mark.parametrize("url", ["http://example.org/v1", "localhost:8000"])
def test_an_address_that_cannot_be_is_refused(url: str, server: EngineServer, generate: Generate):
    with pytest.raises(RecipeError, match=r"runtime\.generation_server\.base_url"):
        generate(server, base_url=url)


def test_requests_overlap_as_many_as_are_allowed(server: EngineServer, generate: Generate) -> None:
    server.delay_s, server.most_at_once = 0.05, 0
    generate(server, concurrency=6)
    assert server.most_at_once == 6
    server.most_at_once = 0
    generate(server, concurrency=1)
    assert server.most_at_once <= 2  # the two answers about an image


def test_a_server_is_checked_once_and_told_no_more_than_it_needs(
    server: EngineServer, store: ArtifactStore, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    ref = model_ref(folders(MOST))
    engine = Engine(ref, PROMPT, LENGTH, store, GenerationServer(base_url=server.url, adapters=str(tmp_path)))
    assert not server.requests  # a stage that is in the store already asks nothing

    def pairs(first: int) -> pa.Table:
        part = sized_images().slice(first, 2)
        return generate_score_pairs_by_engine(
            engine, part, open_sized, min_distance=3, seed=0, iteration=1, progress=Progress("pairs", 2)
        )

    pairs(0)
    checking = len(server.requests) - 4
    assert checking == 2 + 4  # the second wording fits; two images with two answers each
    pairs(2)
    assert len(server.requests) == checking + 8
    body = server.requests[-1]
    assert body["temperature"] == 0 and body["repetition_penalty"] == 1 and body["max_tokens"] == LENGTH
    assert body["messages"][-1]["content"].startswith("#Score: ")


def test_an_image_of_a_shape_that_the_family_refuses_is_named(
    folders: Callable[[str], Path], generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SIZES", [(127, 1), *SIZES[1:]])
    from pipeline_lib.vlm import families

    monkeypatch.setitem(families.FAMILIES, "qwen2_5_vl", families.FAMILIES["qwen2_5_vl"]._replace(max_aspect_ratio=100))
    with (
        running(EngineServer(folders("qwen2.5-vl"))) as server,
        pytest.raises(DataError, match=r"train-0\.png is 127x1 px"),
    ):
        generate(server, family="qwen2.5-vl")


def test_doctor_looks_at_the_server_of_a_recipe_that_has_one(server: EngineServer) -> None:
    from pipeline_lib.checks.methods import checks_of
    from pipeline_lib.config.load import parse_recipe

    def look(engine: str = "openai", iterations: int = 2, **fields: Any) -> list[tuple[str, str]]:
        recipe = {
            "name": "r", "iterations": iterations, "data": {"table": "t.csv"}, "model": {"id": "tiny"},
            "generation": {"engine": engine}, "runtime": {"generation_server": {"base_url": server.url} | fields},
        }  # fmt: skip
        return [(found.state, found.message) for found in checks_of("self_improve")["engine"](parse_recipe(recipe), {})]

    assert look("transformers", base_url="http://127.0.0.1:9/v1") == []
    ((state, message),) = look()
    assert state == "ok" and message.startswith(f"tiny at 127.0.0.1:{server.port}")
    server.can_load = False
    assert [state for state, _ in look()] == ["ok", "note"] and len(look(iterations=1)) == 1
    assert not server.requests  # no answer is asked for
    with pytest.raises(EngineError, match=r"other.* tiny.*generation_server\.model"):
        look(model="other")
    with pytest.raises(EngineError, match="cannot be reached"):
        look(base_url="http://127.0.0.1:9/v1")
