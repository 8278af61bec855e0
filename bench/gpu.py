"""bench.dpo, bench.grpo and bench.generation at the true sizes of real models, on one GPU: `python -m bench.gpu`.

Nothing is downloaded; weights are random. They are drawn on the GPU in bfloat16, once for each kind of step and once
for the reference, so LLaVA-1.5-7B needs about 60 GB for the four and what a step takes on top. Time is wall time
between synchronised points, peak memory the allocator's. The last column of training is the share of what the card's
matrix units reach, measured in the same run. What it shares with the others runs there; this module never ran on a GPU.
"""

import argparse
import gc
import statistics
import time

import torch

from bench.dpo import HEADER, Side, compare, row, step
from bench.generation import HEADER as GENERATION_HEADER
from bench.generation import case_of
from bench.generation import compare as compare_generation
from bench.grpo import HEADER as GRPO_HEADER
from bench.grpo import Figures, Work, measure
from bench.grpo import compare as compare_grpo
from bench.results import add_rows
from bench.shapes import TRUE, TRUE_FOR_GRPO, Shape, build


def _now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory_mb(kind: str, shape: Shape, checkpointing: bool, batch_size: int) -> tuple[float, float]:
    """Peak of the allocator with one side's model in it, and how much of it a step added."""
    torch.cuda.empty_cache()
    once = step(kind, shape, checkpointing, batch_size, "cuda", torch.bfloat16)
    once()  # what a first step alone needs (workspaces, kernels) is not counted
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20
    once()
    after = torch.cuda.max_memory_allocated() / 2**20
    del once
    gc.collect()  # a trainer and its model hold each other
    return after, after - before


def ceiling_flops(side: int = 8192, repeats: int = 20, device: str = "cuda") -> float:
    """FLOPs a second of the fastest of some products of two square bfloat16 matrices: what the card can do at best."""
    first, second = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        begun = _now()
        first @ second
        seconds.append(_now() - begun)
    return 2 * side**3 / min(seconds)


def utilisation(side: Side, ceiling: float) -> str:
    """Share of the ceiling that a step reaches: its counted FLOPs over its median time."""
    return f"{100 * side.flops / statistics.median(side.seconds) / ceiling:.0f} %"


def generation(
    shape: Shape, count: int = 32, batches: tuple[int, ...] = (16, 32, 64), length: int = 150, device: str = "cuda"
) -> list[str]:
    """A row of the table of bench.generation, for `count` images of as many tiles as the shape says."""
    case = case_of(shape.name, *build(shape, device, torch.bfloat16), [shape.image_px] * count, device)
    clock = _now if device == "cuda" else time.perf_counter
    return compare_generation(case, batches, length, clock, exact=False)


def grpo(work: Work) -> list[str]:
    """A row of the table of bench.grpo with gradient checkpointing, as such models are trained."""

    def run(kind: str, work: Work, checkpointing: bool) -> Figures:
        return measure(kind, work, checkpointing, _now, "cuda", torch.bfloat16)

    return compare_grpo(work, True, run, tolerance=5e-2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=2)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device; on a CPU run `make bench`")
    rows, ceiling = [], ceiling_flops()
    for shape in TRUE:
        for checkpointing in (False, True):
            memory = {
                kind: peak_memory_mb(kind, shape, checkpointing, options.batch_size) for kind in ("stored", "stock")
            }
            sides = compare(
                shape,
                checkpointing,
                options.batch_size,
                options.repeats,
                _now,
                device="cuda",
                dtype=torch.bfloat16,
            )
            used = [utilisation(sides[kind], ceiling) for kind in ("stock", "stored", "reference")]
            rows.append([*row(shape, checkpointing, sides, memory), ", ".join(used)])
            print(" | ".join(rows[-1]), flush=True)
    title = f"DPO on a GPU, a step of {options.batch_size} pairs, bfloat16, wall time"
    share = f"of the ceiling of {ceiling / 1e12:.0f} TFLOP/s: stock TRL, ours (stored reference), the reference's pass"
    add_rows(title, [*HEADER, share], rows)
    works = [Work(shape, answers, tokens) for shape in TRUE_FOR_GRPO for tokens in (100, 8) for answers in (8, 32)]
    rows = [grpo(work) for work in works]
    add_rows("GRPO on a GPU, a step of one image, bfloat16, gradient checkpointing, wall time", GRPO_HEADER, rows)
    rows = [generation(shape) for shape in TRUE if shape.family == "llava_next"]
    header = [name.replace("CPU second", "second") for name in GENERATION_HEADER]
    add_rows("Generation on a GPU, bfloat16, wall time: 32 images, 2 explanations of 150 tokens each", header, rows)


if __name__ == "__main__":
    main()
