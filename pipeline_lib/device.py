"""Which device a model runs on, and whether its memory is enough; imports only torch, and only when called."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline_lib.config.base import Runtime
from pipeline_lib.errors import ModelError

if TYPE_CHECKING:
    import torch

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class DeviceMemory(NamedTuple):
    """All memory of a device, used or not; of the whole machine (or its container) on a CPU."""

    device: str
    gb: float  # of 1e9 bytes


def pick_device(device: str) -> "torch.device":
    """`auto` takes CUDA, then Apple's MPS, then the CPU; any other name is used unchanged."""
    import torch

    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: "torch.device") -> str:
    """The kind of a device for people: the name of a GPU, else `cpu` or `mps`."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_memory(device: str) -> DeviceMemory:
    """Memory of `runtime.device`; raises `ModelError` when this machine has no such device."""
    import torch

    try:
        chosen = pick_device(device)
    except RuntimeError as error:
        raise ModelError(f"runtime.device {device}: use auto, cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cpu":
        return DeviceMemory("cpu", _machine_bytes() / 1e9)
    if chosen.type == "cuda" and torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count():
        properties = torch.cuda.get_device_properties(chosen)
        return DeviceMemory(f"{chosen} ({properties.name})", properties.total_memory / 1e9)
    if chosen.type == "mps" and torch.backends.mps.is_available():
        return DeviceMemory("mps", torch.mps.recommended_max_memory() / 1e9)
    raise ModelError(
        f"runtime.device {device}: torch {torch.__version__} finds no such device here; set runtime.device: auto, or"
        " install the torch build for your accelerator"
    )


def check_memory(runtime: Runtime) -> None:
    """Raise `ModelError` when the device has less memory than `runtime.min_memory_gb`; without one, check nothing."""
    if runtime.min_memory_gb:
        found = device_memory(runtime.device)
        if found.gb < runtime.min_memory_gb:
            raise ModelError(
                f"{found.device} has {found.gb:.1f} GB of memory, the recipe needs {runtime.min_memory_gb:g} GB; use a"
                " larger device (runtime.device), or set runtime.min_memory_gb lower with a smaller"
                " training.micro_batch_size and runtime.generation_batch_size"
            )


def check_weights(parameters: int, dtype: str, runtime: Runtime) -> None:
    """Raise `ModelError` when the device has less memory than the weights of a model alone."""
    found, weights_gb = device_memory(runtime.device), parameters * (4 if dtype == "float32" else 2) / 1e9
    if weights_gb > found.gb:
        raise ModelError(
            f"{found.device} has {found.gb:.1f} GB of memory, the weights alone need {weights_gb:.1f} GB; use a larger"
            " device or a smaller model"
        )


def _machine_bytes() -> int:
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:  # a container may have less than its machine
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return min(sizes)
