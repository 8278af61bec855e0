"""TIES against a plain one in numpy, and the merged adapter in use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from pipeline_lib.merge.ties import ties_merge_adapters
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.train.lora import lora_config, save_adapter
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import Vlm, load_base, load_vlm
from tests.tiny import PROMPT, model_ref, picture

CPU = torch.device("cpu")
RANK = 4
Array = np.ndarray[Any, Any]


def make_adapter(tiny_model: Path, folder: Path, seed: int) -> Path:
    from peft import get_peft_model

    vlm = load_base(model_ref(tiny_model), CPU)
    model = get_peft_model(vlm.model, lora_config(vlm.model, RANK))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    save_adapter(model, folder, "default", "tiny")
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return make_adapter(tiny_model, folder / "score", 1), make_adapter(tiny_model, folder / "consistency", 2)


@pytest.fixture
def merge(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    def call(name: str, score: Path, consistency: Path, **options: Any) -> Path:
        given: dict[str, Any] = {"weights": (1.0, 1.0), "density": 0.5, "majority_sign_method": "frequency"}
        base = load_base(model_ref(tiny_model), CPU)
        ties_merge_adapters(base, score, consistency, tmp_path / name, base_name="tiny", **given | options)
        return tmp_path / name

    return call


def weights(folder: Path) -> dict[str, Array]:
    return {name: weight.numpy() for name, weight in load_file(folder / "adapter_model.safetensors").items()}


def plain_ties(tensors: list[Array], scales: list[float], density: float, method: str) -> Array:
    """Trim each to its largest entries, elect a sign for every entry, average those that agree with it.

    The election is before the scaling: a weight says how much an adapter counts, not how loud its signs are.
    """
    trimmed = []
    for tensor in tensors:
        kept = int(density * tensor.size)
        largest = np.argsort(-np.abs(tensor).ravel(), kind="stable")[:kept]
        mask = np.zeros(tensor.size)
        mask[largest] = 1
        trimmed.append(tensor * mask.reshape(tensor.shape))
    stacked = np.stack(trimmed)
    vote = np.sign(stacked).sum(0) if method == "frequency" else stacked.sum(0)
    agree = np.sign(stacked) == np.where(vote >= 0, 1.0, -1.0)
    scaled = stacked * np.array(scales)[:, None, None]
    return (scaled * agree).sum(0) / np.maximum(agree.sum(0), 1)


@pytest.mark.parametrize("method", ["frequency", "total"])
@pytest.mark.parametrize(("density", "pair"), [(0.5, (1.0, 1.0)), (0.2, (1.0, 0.5)), (1.0, (1.0, 1.0))])
def test_the_merge_is_ties_on_each_factor(
    merge: Callable[..., Path], adapters: tuple[Path, Path], method: str, density: float, pair: tuple[float, float]
) -> None:
    folder = merge("merged", *adapters, weights=pair, density=density, majority_sign_method=method)
    score, consistency = (weights(adapter) for adapter in adapters)
    merged = weights(folder)
    assert set(merged) == set(score) and len(merged) == 2 * 14
    scaling = 2.0  # alpha over rank
    for name, found in merged.items():
        scales = [np.sqrt(weight * scaling) for weight in pair]
        expected = plain_ties([score[name], consistency[name]], scales, density, method) / np.sqrt(scaling)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.abs(found).sum() > 0


def test_the_merged_adapter_keeps_rank_alpha_and_layers(
    merge: Callable[..., Path], adapters: tuple[Path, Path]
) -> None:
    folder = merge("merged", *adapters)
    config = json.loads((folder / "adapter_config.json").read_text())
    trained = json.loads((adapters[0] / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (RANK, 2 * RANK)
    assert config["target_modules"] == trained["target_modules"] == sorted(trained["target_modules"])
    assert config["base_model_name_or_path"] == "tiny" and "inference_mode" in config
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_equal_adapters_give_equal_bytes(merge: Callable[..., Path], adapters: tuple[Path, Path]) -> None:
    one, two = merge("one", *adapters), merge("two", *adapters)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def logits(vlm: Vlm, prompt: str) -> torch.Tensor:
    given = vlm.processor(images=picture("a"), text=prompt, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        return torch.as_tensor(vlm.model(**given).logits)


def load_published(tiny_model: Path, folder: Path, root: Path) -> Vlm:
    """As the stages do it: publish the adapter, and load the base under it from the store."""
    store, ref = ArtifactStore(str(root)), ArtifactRef(stage="ties_merge", key=folder.name)
    with store.attempt() as attempt:
        for path in folder.iterdir():
            (attempt.folder / path.name).write_bytes(path.read_bytes())
        store.publish(ref.address, attempt, {})
    return load_vlm(model_ref(tiny_model, adapter=ref), store, CPU)


def test_the_reloaded_merged_adapter_is_pefts_own(
    merge: Callable[..., Path], adapters: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    base = load_base(model_ref(tiny_model), CPU)
    prompt = render_chat(base.processor, PROMPT).prompt
    without = logits(base, prompt)
    model = PeftModel.from_pretrained(base.model, str(adapters[0]), adapter_name="score")
    model.load_adapter(str(adapters[1]), adapter_name="consistency")
    model.add_weighted_adapter(
        ["score", "consistency"],
        [1.0, 1.0],
        "m",
        combination_type="ties",
        density=0.5,
        majority_sign_method="frequency",
    )
    model.set_adapter("m")
    own = logits(base._replace(model=model.eval()), prompt)
    reloaded = logits(load_published(tiny_model, merge("merged", *adapters), tmp_path / "store"), prompt)
    assert (own - without).abs().max() > 0.1
    torch.testing.assert_close(reloaded, own, atol=1e-4, rtol=1e-4)


def test_an_adapter_merged_with_itself_stays_what_it_is(
    merge: Callable[..., Path], adapters: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    folder = merge("itself", adapters[0], adapters[0], density=1.0)
    prompt = render_chat(load_base(model_ref(tiny_model), CPU).processor, PROMPT).prompt
    one = logits(load_published(tiny_model, adapters[0], tmp_path / "store"), prompt)
    merged = logits(load_published(tiny_model, folder, tmp_path / "store"), prompt)
    torch.testing.assert_close(merged, one, atol=1e-4, rtol=1e-4)


def test_in_16_bit_the_adapter_stays_beside_the_weights(
    adapters: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    store, ref = ArtifactStore(str(tmp_path)), ArtifactRef(stage="train_score", key="k")
    with store.attempt() as attempt:
        for path in adapters[0].iterdir():
            (attempt.folder / path.name).write_bytes(path.read_bytes())
        store.publish(ref.address, attempt, {})
    assert isinstance(load_vlm(model_ref(tiny_model, adapter=ref, dtype="bfloat16"), store, CPU).model, PeftModel)
    assert not isinstance(load_vlm(model_ref(tiny_model, adapter=ref), store, CPU).model, PeftModel)
