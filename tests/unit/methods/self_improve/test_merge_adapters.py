"""Every way of merging against a plain one in numpy, and the merged adapter in use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from pipeline_lib.methods.self_improve.merge import merge_adapters
from pipeline_lib.methods.self_improve.recipe import Merge
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.tiny import PROMPT, model_ref, picture
from pipeline_lib.train.lora import lora_config, save_adapter
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import Vlm, load_base, load_vlm

CPU = torch.device("cpu")
RANK = 4
SCALING = 2.0  # alpha over rank
Array = np.ndarray[Any, Any]


def make_adapter(tiny_model: Path, folder: Path, seed: int, used: int = RANK) -> Path:
    """A random adapter, of whose rank some rows and columns are used."""
    from peft import get_peft_model

    vlm = load_base(model_ref(tiny_model), CPU)
    model = get_peft_model(vlm.model, lora_config(vlm.model, RANK))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
                (weight if "lora_A" in name else weight.T)[used:] = 0
    save_adapter(model, folder, "default", "tiny")
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return make_adapter(tiny_model, folder / "score", 1), make_adapter(tiny_model, folder / "consistency", 2)


@pytest.fixture
def merge(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    def call(name: str, score: Path, consistency: Path, **options: Any) -> Path:
        seed = options.pop("seed", 0)
        base = load_base(model_ref(tiny_model), CPU)
        merge_adapters(base, score, consistency, tmp_path / name, Merge(**options), seed=seed, base_name="tiny")
        return tmp_path / name

    return call


def weights(folder: Path) -> dict[str, Array]:
    return {name: weight.numpy() for name, weight in load_file(folder / "adapter_model.safetensors").items()}


def keep_largest(tensor: Array, density: float) -> Array:
    kept = int(density * tensor.size)
    mask = np.zeros(tensor.size)
    mask[np.argsort(-np.abs(tensor).ravel(), kind="stable")[:kept]] = 1
    return np.asarray(tensor * mask.reshape(tensor.shape))


def elect_and_average(tensors: list[Array], scales: list[float], method: str) -> Array:
    """Elect a sign for every entry, average those that agree with it.

    The election is before the scaling: a weight says how much an adapter counts, not how loud its signs are.
    """
    stacked = np.stack(tensors)
    vote = np.sign(stacked).sum(0) if method == "frequency" else stacked.sum(0)
    agree = np.sign(stacked) == np.where(vote >= 0, 1.0, -1.0)
    scaled = stacked * np.array(scales)[:, None, None]
    return np.asarray((scaled * agree).sum(0) / np.maximum(agree.sum(0), 1))


def plain_ties(tensors: list[Array], scales: list[float], density: float, method: str) -> Array:
    return elect_and_average([keep_largest(tensor, density) for tensor in tensors], scales, method)


def weighted_sum(tensors: list[Array], scales: list[float]) -> Array:
    return np.asarray(sum(scale * tensor for scale, tensor in zip(scales, tensors, strict=True)))


def deltas(folder: Path) -> dict[str, Array]:
    """The weight update of each layer: scaling x B A."""
    config = json.loads((folder / "adapter_config.json").read_text())
    found = weights(folder)
    return {
        name: config["lora_alpha"] / config["r"] * found[name.replace("lora_A", "lora_B")] @ factor
        for name, factor in found.items()
        if "lora_A" in name
    }


def best_of_rank(matrix: Array, rank: int) -> Array:
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray((left[:, :rank] * sizes[:rank]) @ right[:rank])


@pytest.mark.parametrize("method", ["frequency", "total"])
@pytest.mark.parametrize(("density", "pair"), [(0.5, (1.0, 1.0)), (0.2, (1.0, 0.5)), (1.0, (1.0, 1.0))])
def test_the_merge_is_ties_on_each_factor(
    merge: Callable[..., Path], adapters: tuple[Path, Path], method: str, density: float, pair: tuple[float, float]
) -> None:
    folder = merge("merged", *adapters, weights=pair, density=density, majority_sign_method=method)
    score, consistency = (weights(adapter) for adapter in adapters)
    merged = weights(folder)
    assert set(merged) == set(score) and len(merged) == 2 * 14
    for name, found in merged.items():
        scales = [np.sqrt(weight * SCALING) for weight in pair]
        expected = plain_ties([score[name], consistency[name]], scales, density, method) / np.sqrt(SCALING)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.abs(found).sum() > 0


@pytest.mark.parametrize("pair", [(1.0, 1.0), (0.5, 0.5), (1.0, 0.25)])
@pytest.mark.parametrize("method", ["linear", "magnitude_prune"])
def test_sums_of_the_factors(
    merge: Callable[..., Path], adapters: tuple[Path, Path], method: str, pair: tuple[float, float]
) -> None:
    merged = weights(merge("merged", *adapters, method=method, weights=pair, density=0.3))
    score, consistency = (weights(adapter) for adapter in adapters)
    for name, found in merged.items():
        parts = [score[name], consistency[name]]
        if method == "magnitude_prune":
            parts = [keep_largest(part, 0.3) for part in parts]
        expected = weighted_sum(parts, [np.sqrt(weight * SCALING) for weight in pair]) / np.sqrt(SCALING)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("pair", [(1.0, 1.0), (1.0, 0.25)])
@pytest.mark.parametrize(
    ("method", "sign"),  # the others elect no sign
    [("ties", "frequency"), ("ties", "total"), ("linear", "frequency"), ("magnitude_prune", "total")],
)
def test_merges_of_the_weight_updates_are_brought_back_to_the_rank(
    merge: Callable[..., Path], adapters: tuple[Path, Path], method: str, sign: str, pair: tuple[float, float]
) -> None:
    options = {"method": method, "space": "delta", "weights": pair, "density": 0.3, "majority_sign_method": sign}
    merged = deltas(merge("merged", *adapters, **options))
    score, consistency = (deltas(adapter) for adapter in adapters)
    assert set(merged) == set(score) and len(merged) == 14
    for name, found in merged.items():
        parts = [score[name], consistency[name]]
        if method == "ties":
            whole = plain_ties(parts, list(pair), 0.3, sign)
        elif method == "linear":
            whole = weighted_sum(parts, list(pair))
        else:
            whole = weighted_sum([keep_largest(part, 0.3) for part in parts], list(pair))
        np.testing.assert_allclose(found, best_of_rank(whole, RANK), atol=2e-5)


def test_a_sum_of_updates_is_exact_when_it_fits_into_the_rank(
    merge: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    half = [make_adapter(tiny_model, tmp_path / f"half-{seed}", seed, used=RANK // 2) for seed in (1, 2)]
    merged = deltas(merge("merged", *half, method="linear", space="delta", weights=(0.5, 1.0)))
    score, consistency = (deltas(adapter) for adapter in half)
    for name, found in merged.items():
        np.testing.assert_allclose(found, 0.5 * score[name] + consistency[name], atol=2e-5)


@pytest.mark.parametrize("sign", ["frequency", "total"])
def test_dare_drops_entries_scales_up_the_rest_and_elects_signs(
    merge: Callable[..., Path], adapters: tuple[Path, Path], sign: str
) -> None:
    density = 0.3
    merged = weights(merge("merged", *adapters, method="dare_ties", density=density, majority_sign_method=sign))
    score, consistency = (weights(adapter) for adapter in adapters)
    dropped = []
    for name, found in merged.items():
        kept = [part / density for part in (score[name], consistency[name])]
        outcomes = np.stack([0 * found, *kept, elect_and_average(kept, [1.0, 1.0], sign)])
        away = np.abs(found - outcomes)
        assert away.min(axis=0).max() < 1e-5  # neither kept, one of the two, or both
        dropped.append((away.argmin(axis=0) == 0).ravel())
    assert np.mean(np.concatenate(dropped)) == pytest.approx((1 - density) ** 2, abs=0.03)


@pytest.mark.parametrize("space", ["factors", "delta"])
def test_dare_gives_the_same_bytes_for_the_same_seed_alone(
    merge: Callable[..., Path], adapters: tuple[Path, Path], space: str
) -> None:
    def content(name: str, seed: int) -> bytes:
        folder = merge(name, *adapters, method="dare_ties", space=space, seed=seed)
        return (folder / "adapter_model.safetensors").read_bytes()

    assert content("a", 1) == content("b", 1) != content("c", 2)


def test_what_dare_keeps_is_on_average_what_was_there(merge: Callable[..., Path], adapters: tuple[Path, Path]) -> None:
    """An adapter merged with itself has no sign conflicts, so that only the drops differ from the adapter."""
    trained = np.concatenate([factor.ravel() for factor in weights(adapters[0]).values()])
    merged = np.concatenate(
        [
            factor.ravel()
            for factor in weights(merge("m", adapters[0], adapters[0], method="dare_ties", density=0.8)).values()
        ]
    )
    # Kept by both or one of the two, each scaled by 1 / .8; where both are dropped nothing is left.
    assert np.mean(merged == 0) == pytest.approx(0.2**2, abs=0.01)
    assert np.mean(merged[merged != 0] / trained[merged != 0]) == pytest.approx(1 / 0.8, rel=1e-5)


@pytest.mark.parametrize("space", ["factors", "delta"])
@pytest.mark.parametrize("method", ["ties", "linear", "dare_ties", "magnitude_prune"])
def test_the_merged_adapter_keeps_rank_alpha_and_layers(
    merge: Callable[..., Path], adapters: tuple[Path, Path], method: str, space: str
) -> None:
    folder = merge("merged", *adapters, method=method, space=space)
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


@pytest.mark.parametrize(
    ("options", "own_name"),
    [({}, "ties"), ({"space": "delta"}, "ties_svd"), ({"method": "linear", "space": "delta"}, "svd")],
)
def test_the_reloaded_merged_adapter_is_pefts_own(
    merge: Callable[..., Path],
    adapters: tuple[Path, Path],
    tiny_model: Path,
    tmp_path: Path,
    options: dict[str, str],
    own_name: str,
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
        combination_type=own_name,
        density=0.5,
        majority_sign_method="frequency",
    )
    model.set_adapter("m")
    own = logits(base._replace(model=model.eval()), prompt)
    reloaded = logits(load_published(tiny_model, merge("merged", *adapters, **options), tmp_path / "store"), prompt)
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
