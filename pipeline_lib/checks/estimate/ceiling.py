"""What a machine can do at best, measured in about two seconds, and what published figures say of cards."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaModel


class Ceiling(NamedTuple):
    """Speeds of a device in one precision."""

    device: str
    flops: float  # a second, that passes over many tokens reach
    bytes: float  # a second, read from memory in products with few rows
    layer_s: float  # a layer takes at least so long, however few tokens it gets


CARDS = {
    "a6000": Ceiling("an A6000 (48 GB)", 0.35 * 155e12, 0.6 * 0.77e12, 1.3e-3),
    "h100": Ceiling("an H100 (80 GB)", 0.35 * 989e12, 0.6 * 3.35e12, 1.3e-3),
}
"""Of published rates in bfloat16 a share of 35 % (arithmetic) and 60 % (memory); a layer's time is assumed."""

_SHARE = {"cpu": 0.85, "cuda": 0.5}
"""The share of the fastest matrix product that passes of a model reach: measured on a CPU, assumed on a GPU."""


def measure(device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> Ceiling:
    """The fastest of some products of square matrices, of products with eight rows, and of passes of one token."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def best(work: Callable[[], object], seconds: float = 0.5) -> float:
        work()
        wait()
        found, until = float("inf"), clock() + seconds
        while clock() < until:
            begun = clock()
            work()
            wait()
            found = min(found, clock() - begun)
        return found

    side = 1024 if device.type == "cpu" else 8192
    with torch.no_grad():
        first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        flops = 2 * side**3 / best(lambda: first @ second)
        large = [torch.randn(2048, 4096, device=device, dtype=dtype) for _ in range(8)]  # more than a cache holds
        few = torch.randn(8, 2048, device=device, dtype=dtype)
        read = best(lambda: [few @ weight for weight in large])
        config = LlamaConfig(
            vocab_size=8, hidden_size=64, intermediate_size=128, num_hidden_layers=8, num_attention_heads=2
        )
        small = LlamaModel(config).to(device, dtype).eval()
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        layer = best(lambda: small(token, use_cache=True)) / config.num_hidden_layers
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"this {device.type}"
    share = _SHARE.get(device.type, 0.5)
    size = sum(weight.nbytes for weight in large)
    return Ceiling(name, share * flops, size / read, layer)
