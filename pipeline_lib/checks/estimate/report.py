"""The estimate of a recipe's memory and hours as sentences of the doctor."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from pipeline_lib.checks.estimate.ceiling import CARDS, Ceiling, measure
from pipeline_lib.checks.estimate.cost import Cost, Setting, cost_of, peak
from pipeline_lib.checks.estimate.model_size import CHARACTERS_A_TOKEN, ModelSize, Sized, size_of_model
from pipeline_lib.checks.estimate.stages import StagesOf, Tokens
from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.device import DeviceMemory, device_memory, pick_device
from pipeline_lib.vlm.model_ref import ModelRef

_TEMPLATE_TOKENS = 12  # of the turns' marks, where the chat template is not known


class Estimate(NamedTuple):
    """Costs of all stages on a machine."""

    costs: Sequence[Cost]
    ceiling: Ceiling
    size: ModelSize
    without: Sequence[str]
    known: bool  # the sizes are those of a table, because the model's files are not here

    @property
    def memory(self) -> float:
        """Bytes of the stage that needs the most."""
        return peak(self.costs).memory

    @property
    def hours(self) -> float:
        """Of all stages together."""
        return sum(cost.seconds for cost in self.costs) / 3600


def estimate(
    recipe: BaseRecipe, base: ModelRef, facts: Mapping[str, Any], stages_of: StagesOf, card: str | None = None
) -> Estimate:
    """The costs of a recipe's stages here, or on one of `CARDS`.

    Raises `ModelError` for a model of unknown size.
    """
    sized = size_of_model(base)
    found = stages_of(recipe, facts, _counter(sized))
    dtype = getattr(torch, recipe.model.dtype)
    number = torch.empty(0, dtype=dtype).element_size()
    ceiling = CARDS[card] if card else _measured(pick_device(recipe.runtime.device), dtype)
    saved = {rank: sized.saved_bytes(rank, dtype) for rank in {max(1, stage.rank) for stage in found.stages}}
    checkpointing = recipe.runtime.gradient_checkpointing
    costs = [
        cost_of(stage, sized.size, ceiling, Setting(number, checkpointing, saved[max(1, stage.rank)]))
        for stage in found.stages
    ]
    return Estimate(costs, ceiling, sized.size, found.without, sized.tokenizer is None)


def sentences(found: Estimate, recipe: BaseRecipe, card: str | None = None) -> Iterator[tuple[str, str]]:
    """What is said of memory and of hours, each with `ok` or `note`."""
    weights = found.size.parameters * (4 if recipe.model.dtype == "float32" else 2)
    most = peak(found.costs)
    kinds = {cost.stage.name: cost.memory for cost in sorted(found.costs, key=lambda cost: cost.memory)}
    parts = ", ".join(f"{name} {memory / 1e9:.3g}" for name, memory in kinds.items())
    text = f"an estimate: weights {weights / 1e9:.3g} GB, at the peak of {parts} GB"
    state = "ok"
    if card is None and pick_device(recipe.runtime.device).type == "cpu":
        text += "; glibc keeps up to 1.8 times of it, unless the environment has MALLOC_MMAP_THRESHOLD_=65536"
    if card is None and most.memory > (there := _there(recipe)).gb * 1e9:
        state = "note"
        text += (
            f"; {there.device} has {there.gb:.3g} GB. Set training.micro_batch_size and runtime.generation_batch_size"
            " lower, or use a larger device"
        )
    yield state, text
    hours = ", ".join(f"{cost.stage.name} {_of_seconds(cost.seconds)}" for cost in found.costs)
    image, speed = found.size.image, found.ceiling
    text = (
        f"an estimate: {_of_seconds(3600 * found.hours)} on {speed.device} ({hours}); {image.tokens} tokens an image in"
        f" {image.views} view(s), {speed.flops / 1e12:.3g} TFLOP/s, {speed.bytes / 1e9:.3g} GB/s,"
        f" {1000 * speed.layer_s:.2g} ms a layer"
    )
    if found.without:
        text += f"; without {', '.join(found.without)}"
    yield "ok", text


@cache
def _measured(device: torch.device, dtype: torch.dtype) -> Ceiling:
    return measure(device, dtype)


def _there(recipe: BaseRecipe) -> DeviceMemory:
    return device_memory(recipe.runtime.device)


def _of_seconds(seconds: float) -> str:
    return f"{seconds / 3600:.2g} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def _counter(sized: Sized) -> Tokens:
    if sized.tokenizer is None:
        return lambda text: len(text) / CHARACTERS_A_TOKEN + _TEMPLATE_TOKENS
    from pipeline_lib.vlm.chat import tokens

    return lambda text: len(tokens(sized.tokenizer, text)) + _TEMPLATE_TOKENS
