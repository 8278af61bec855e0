"""Device hours of stages and their price, from the manifests of their artifacts."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline_lib.store import Manifest


class Cost(NamedTuple):
    """Seconds of stages that ran a model, times the devices that each used; other stages cost none.

    A manifest has the time of the attempt that published it. What a killed attempt took before is not known.
    """

    gpu_s: float = 0.0
    other_s: float = 0.0  # on a CPU or an Apple GPU


def cost_of(manifests: Iterable[Manifest]) -> Cost:
    """The cost of artifacts, each counted once; those of earlier versions do not say their device and count nothing."""
    gpu_s = other_s = 0.0
    for one in manifests:
        seconds = one.seconds * one.device_count
        if one.device in ("cpu", "mps"):
            other_s += seconds
        elif one.device is not None:
            gpu_s += seconds
    return Cost(gpu_s, other_s)


def cost_text(cost: Cost, usd_per_device_hour: float | None = None) -> str:
    """`3 GPU hours`, or `0.07 device hours without a GPU`, with the price if there is one; empty without any hours."""
    gpu, other = cost.gpu_s / 3600, cost.other_s / 3600
    parts = [f"{_hours(gpu)} GPU hours"] if gpu else []
    parts += [f"{_hours(other)} device hours without a GPU"] if other else []
    if parts and usd_per_device_hour is not None:
        parts[-1] += f" ({(gpu + other) * usd_per_device_hour:.2f} USD at {usd_per_device_hour:g} USD an hour)"
    return " and ".join(parts)


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours >= 0.01 else "under 0.01"
