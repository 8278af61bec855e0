"""Estimates of memory and hours: what is counted is what runs, and the recipes' figures are those of the command."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from bench.recipe_sizes import figures, large_recipes, sentence, table, with_sentence
from pipeline_lib.checks.estimate import report
from pipeline_lib.checks.estimate.ceiling import CARDS, measure
from pipeline_lib.checks.estimate.cost import Setting, cost_of, language_flops
from pipeline_lib.checks.estimate.model_size import saved_bytes, size_of
from pipeline_lib.checks.estimate.stages import Stage
from pipeline_lib.checks.methods import stages_of
from pipeline_lib.config.load import load_recipe
from pipeline_lib.testing.tiny_families import FAMILIES, Family
from pipeline_lib.train.lora import lora_config
from pipeline_lib.vlm.generate.features import image_features
from pipeline_lib.vlm.known_models import KNOWN_MODELS, known_config
from pipeline_lib.vlm.model_ref import resolve_model
from whyscore.cli import app

ROOT = Path(__file__).parents[3]
PX = (224, 224)
PUBLISHED = {  # numbers of weights as public sources give them for the published checkpoints
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
}
ROUNDED = {  # as the models' pages give them, in 1e9
    "llava-hf/llava-v1.6-vicuna-7b-hf": 7.06,
    "llava-hf/llava-v1.6-mistral-7b-hf": 7.57,
    "OpenGVLab/InternVL3-2B-hf": 2.09,
}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def built(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    family: Family = request.param
    model, processor = family.make()
    model.set_attn_implementation("eager")  # whose products the counter knows
    return model, processor


def test_the_counted_operations_are_those_that_run(built: tuple[Any, Any]) -> None:
    model, processor = built
    size = size_of(model.config, processor, PX)
    inputs = processor(images=[[Image.new("RGB", PX)]], text=[f"{processor.image_token} a b c"], return_tensors="pt")
    with torch.no_grad(), FlopCounterMode(display=False) as tower:
        image_features(model.model, inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        model(**inputs)
    assert size.tower == tower.get_total_flops()
    length = inputs["input_ids"].shape[1]
    assert size.tower + language_flops(size, length, length**2, length) == whole.get_total_flops()
    assert size.image.tokens == int((inputs["input_ids"] == processor.image_token_id).sum())
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    assert size.adapter * 4 == sum(
        weight.numel() for name, weight in _with_lora(model, 4).named_parameters() if "lora_" in name
    )


def _with_lora(model: Any, rank: int) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, lora_config(model, rank))


def test_what_a_layer_keeps_is_what_a_real_pass_keeps(built: tuple[Any, Any]) -> None:
    model, _ = built
    counted = saved_bytes(model.config, 4, torch.float32)
    model.config.get_text_config()._attn_implementation = "sdpa"
    decoder = _with_lora(model, 4).get_base_model().get_decoder()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def kept(layers: int) -> int:
        found: dict[int, Any] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        every, decoder.layers = decoder.layers, nn.ModuleList(list(decoder.layers)[:layers])
        decoder.config.num_hidden_layers, decoder.config._attn_implementation = layers, "sdpa"
        states = torch.randn(1, 64, model.config.get_text_config().hidden_size, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            decoder(inputs_embeds=states, use_cache=False)
        decoder.layers = every
        return sum(storage.nbytes() for storage in found.values())

    assert counted == pytest.approx((kept(2) - kept(1)) / 64, rel=0.1)


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_known_models_have_as_many_weights_as_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(known_config(KNOWN_MODELS[name]))
    found = sum(weight.numel() for weight in model.parameters())
    assert found == PUBLISHED.get(name, found)
    assert round(found / 1e9, 2) == ROUNDED.get(name, round(found / 1e9, 2))


def test_a_small_run_takes_about_the_estimated_time() -> None:
    """Within a factor of 2.5 in CPU time; `python -m bench.sizes` compares larger ones, and memory."""
    from bench.shapes import Shape, build, pairs
    from bench.sizes import pair_counts
    from pipeline_lib.train.answer_logps import shared_logps
    from pipeline_lib.train.prefix_rows import PAIR, Row
    from pipeline_lib.vlm.load import Vlm

    shape = Shape("small", "llava", (4, 512, 1376, 8, 2048), (2, 256, 1024, 4), (336, 336), 8)
    model, processor = build(shape)
    rows = [Row([pair["image"]], pair["prompt"], [pair[side] for side in PAIR]) for pair in pairs(shape, 2)]
    counts: Any = pair_counts(shape, processor, 2) | {"rows": 2}
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        shared_logps(Vlm(model, processor, torch.device("cpu")), rows)
        seconds.append(time.process_time() - begun)
    size = size_of(model.config, processor, shape.image_px)
    stage = Stage("read", "read", limit=counts["length"], **counts)
    ceiling = measure(torch.device("cpu"), torch.float32, time.process_time)
    cost = cost_of(stage, size, ceiling, Setting(4, False, 0.0))
    assert cost.seconds / 2.5 < min(seconds) < cost.seconds * 2.5


def test_more_of_anything_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "recipes" / "self_improve" / "paper" / "aadb_llava-1.5-7b.yaml"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    counted = stages_of("self_improve")
    assert counted is not None

    def of(**fields: Any) -> report.Estimate:
        recipe = load_recipe(str(path), {name.replace("__", "."): value for name, value in fields.items()})
        return report.estimate(recipe, resolve_model(recipe.model), {}, counted, "h100")

    def training(found: report.Estimate) -> float:
        return next(cost.memory for cost in found.costs if cost.stage.name == "train")

    plain = of()
    assert of(iterations=5).hours > 1.2 * plain.hours
    assert training(of(training__lora_rank=128)) > training(plain)
    assert training(of(training__micro_batch_size=16)) > 1.5 * training(plain)
    kept = of(runtime__gradient_checkpointing=False)
    assert training(kept) > 1.5 * training(plain) and kept.hours < plain.hours
    assert of(model__dtype="float32").memory > 1.5 * plain.memory


def test_the_doctor_tells_memory_and_hours_of_a_model_that_is_not_here(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "self_improve" / "paper" / "aadb_llava-1.5-7b.yaml"

    def lines(*options: str) -> list[str]:
        settings = ["--set", f"runtime.store={tmp_path}/store", "--set", "runtime.device=cpu", *options]
        return CliRunner().invoke(app, ["doctor", str(path), *settings]).output.splitlines()

    found = lines("--card", "h100")
    (size,) = (line for line in found if line[6:10] == "size")
    (hours,) = (line for line in found if line[6:11] == "hours")
    assert size.startswith("ok") and "weights 14.1 GB" in size and "train" in size
    assert "an estimate" in hours and CARDS["h100"].device in hours and "576 tokens an image in 1 view" in hours
    (size,) = (line for line in lines("--set", "model.id=nobody/nothing", "--card", "h100") if line[6:10] == "size")
    assert size.startswith("skip") and "nobody/nothing" in size and "llava-hf/llava-1.5-7b-hf" in size
    assert any("a6000, h100" in line for line in lines("--card", "abacus"))


def test_too_large_a_run_is_remarked_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "recipes" / "self_improve" / "paper" / "aadb_llava-1.5-7b.yaml"
    recipe = load_recipe(str(path), {"runtime.device": "cpu"})
    monkeypatch.setattr(report, "_measured", lambda *_: CARDS["a6000"])
    counted = stages_of("self_improve")
    assert counted is not None
    found = report.estimate(recipe, resolve_model(recipe.model), {}, counted)
    monkeypatch.setattr(report, "device_memory", lambda _: report.DeviceMemory("cpu", 8.0))
    (state, text), _ = report.sentences(found, recipe)
    assert state == "note" and "cpu has 8 GB" in text and "training.micro_batch_size" in text
    monkeypatch.setattr(report, "device_memory", lambda _: report.DeviceMemory("cpu", 800.0))
    assert next(report.sentences(found, recipe))[0] == "ok"


@pytest.mark.parametrize("path", large_recipes(), ids=lambda path: path.stem)
def test_the_figures_of_a_recipe_are_those_of_the_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = figures(path)
    assert all(cost.seconds > 0 and cost.memory > 1.7e9 for cost in found.h100.costs) and not found.h100.without
    assert found.a6000.hours > found.h100.hours and found.h100.known
    again = "; write the figures anew: python -m bench.recipe_sizes"
    assert sentence(found) in path.read_text(encoding="utf-8"), path.name + again
    (row,) = table({path: found}).splitlines()[2:]
    assert row in (ROOT / "recipes" / "README.md").read_text(encoding="utf-8"), path.name + again


def test_figures_are_written_where_they_were_or_behind_the_first_comment() -> None:
    words = "# Expect about 5 GB.\n"
    assert with_sentence("# A\n# Expect about 1 GB, on\n# one. A6000.\n# B\nname: a\n", words) == (
        "# A\n# Expect about 5 GB.\n# B\nname: a\n"
    )
    assert with_sentence("# A\nname: a\n", words) == "# A\n#\n# Expect about 5 GB.\nname: a\n"
