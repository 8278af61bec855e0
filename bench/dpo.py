"""DPO: ours against stock TRL, in turn, on the same model, the same pairs and the same adapter.

`python -m bench.dpo` prints, and adds to bench/RESULTS.md, for models of random weights at real ones' proportions:
the ratio of times (CPU seconds of one thread, so that a busy machine disturbs less), the ratio of floating-point
operations of the same work, and the peak memory of a process that does one step. A step is collating the pairs, one
forward and backward pass; the optimiser is left out, it is the same on all sides.

Ours comes twice: with the reference computed in the step, as stock TRL does it, and with a stored one. Of that, a
training alone is no honest figure; what an iteration takes is one pass of the reference over three answers an image,
and then two trainings, where stock TRL has its two trainings. Both are printed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer
from trl import DPOConfig, DPOTrainer

from bench.results import add_rows
from bench.shapes import SMALL, Shape, build, pairs
from pipeline_lib.train.answer_logps import shared_logps
from pipeline_lib.train.lora import lora_config
from pipeline_lib.train.prefix_rows import Row
from pipeline_lib.train.prefix_shared import PrefixSharedDPOTrainer
from pipeline_lib.train.stored_reference import REFERENCE, FastDPOTrainer
from pipeline_lib.vlm.load import Vlm

KINDS: dict[str, Any] = {"stock": DPOTrainer, "in step": PrefixSharedDPOTrainer, "stored": FastDPOTrainer}


class Side(NamedTuple):
    """One of those that are compared."""

    seconds: list[float]  # a step each, or a pass of the reference, for all pairs of the batch
    flops: int  # of one


def reference(shape: Shape, batch_size: int, device: str, dtype: torch.dtype) -> Callable[[], list[list[float]]]:
    """A function that does the reference's pass over three answers an image."""
    model, processor = build(shape, device, dtype)
    vlm = Vlm(model, processor, torch.device(device))
    rows = []
    for pair in pairs(shape, batch_size):
        swapped = pair["chosen"].partition("\n")[0] + "\n" + pair["rejected"].partition("\n")[2]
        rows.append(Row([pair["image"]], pair["prompt"], [pair["chosen"], pair["rejected"], swapped]))
    return lambda: shared_logps(vlm, rows)


def switch_on_checkpointing(trainer: Any) -> None:
    """As `trainer.train` does, which is not called here; raises `RuntimeError` when no layer would compute again."""
    trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    trainer.model.train()
    layers = [layer for layer in trainer.model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not any(layer.gradient_checkpointing and layer.training for layer in layers):
        raise RuntimeError("gradient checkpointing is off; this version of transformers switches it on in another way")


def step(
    kind: str, shape: Shape, checkpointing: bool, batch_size: int, device: str, dtype: torch.dtype
) -> Callable[[], float]:
    """A function that does one step and returns its loss."""
    rows = pairs(shape, batch_size)
    if kind == "stored":
        logps = reference(shape, batch_size, device, dtype)()
        rows = [row | dict(zip(REFERENCE, values, strict=False)) for row, values in zip(rows, logps, strict=True)]
    model, processor = build(shape, device, dtype)
    folder = tempfile.mkdtemp(prefix="whyscore-bench-")
    torch.manual_seed(1)
    trainer = KINDS[kind](
        model=model,
        args=DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            gradient_checkpointing=checkpointing,
            bf16=dtype == torch.bfloat16,
            use_cpu=device == "cpu",
            max_length=None,
            remove_unused_columns=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"at": [0]}).with_transform(lambda _: {key: [rows[0][key]] for key in rows[0]}),
        processing_class=processor,
        peft_config=lora_config(model, shape.rank),
    )
    with torch.no_grad():  # else policy and reference are the same and every loss is ln 2, whatever went wrong
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    trainer.current_gradient_accumulation_steps = 1
    trainer.accelerator.prepare(trainer.model)
    if checkpointing:
        switch_on_checkpointing(trainer)

    def once() -> float:
        batch = trainer.data_collator([dict(row) for row in rows])
        loss = float(trainer.training_step(trainer.model, batch))
        trainer.model.zero_grad()
        return loss

    return once


@contextmanager
def counting(device: str) -> Iterator[FlopCounterMode]:
    """Counts floating-point operations; masked halves of attention count in full."""
    # The counter does not know the CPU's attention kernel, so plain products are made instead.
    plain = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()
    with plain, FlopCounterMode(display=False) as counter:
        yield counter


def flops(once: Callable[[], object], device: str) -> int:
    """Of one call."""
    with counting(device) as counter:
        once()
    return int(counter.get_total_flops())


def compare(
    shape: Shape,
    checkpointing: bool,
    batch_size: int,
    repeats: int,
    clock: Callable[[], float],
    *,
    device: str,
    dtype: torch.dtype,
) -> dict[str, Side]:
    """A step of each kind in turn, and the `reference`; the first of each is warm-up, but the losses are compared."""
    steps = {kind: step(kind, shape, checkpointing, batch_size, device, dtype) for kind in KINDS}
    losses = {kind: once() for kind, once in steps.items()}
    tolerance = (1e-3 if dtype == torch.float32 else 5e-2) * abs(losses["stock"])
    if any(abs(loss - losses["stock"]) > tolerance for loss in losses.values()):
        raise SystemExit(f"{shape.name}: the losses differ, one of them is wrong: {losses}")
    work: dict[str, Callable[[], object]] = {**steps, "reference": reference(shape, batch_size, device, dtype)}
    work["reference"]()
    seconds: dict[str, list[float]] = {kind: [] for kind in work}
    for _ in range(repeats):
        for kind, once in work.items():
            begun = clock()
            once()
            seconds[kind].append(clock() - begun)
    return {kind: Side(seconds[kind], flops(once, device)) for kind, once in work.items()}


def peak_memory_mb(kind: str, shape: Shape, checkpointing: bool, batch_size: int) -> tuple[float, float]:
    """Peak of a process of its own that does one step, and how much of it the step added."""
    command = [sys.executable, "-m", "bench.dpo", "--memory-of", kind, "--shape", shape.name]
    command += ["--batch-size", str(batch_size), *(["--checkpointing"] if checkpointing else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = json.loads(done.stdout.splitlines()[-1])
    return after, after - before


def row(shape: Shape, checkpointing: bool, sides: dict[str, Side], memory: dict[str, tuple[float, float]]) -> list[str]:
    """A row of the table in RESULTS.md."""
    stock, in_step, stored, reference = (sides[kind] for kind in ("stock", "in step", "stored", "reference"))
    rounds = list(zip(*(side.seconds for side in (stock, in_step, stored, reference)), strict=True))
    return [
        shape.name,
        "on" if checkpointing else "off",
        *(_spread(side.seconds) for side in (stock, in_step, stored, reference)),
        f"{_spread(a / b for a, b, _, _ in rounds)}; {stock.flops / in_step.flops:.2f}",
        f"{_spread(a / c for a, _, c, _ in rounds)}; {stock.flops / stored.flops:.2f}",
        f"**{_spread(2 * a / (d + 2 * c) for a, _, c, d in rounds)}**;"
        f" {2 * stock.flops / (reference.flops + 2 * stored.flops):.2f}",
        *(f"{memory[kind][0]:,.0f} (+{memory[kind][1]:,.0f})" for kind in ("stock", "stored")),
    ]


HEADER = [
    "model", "gradient checkpointing", "stock TRL, s a step", "ours, reference in the step, s",
    "ours, stored reference, s", "the reference's pass, s", "in the step: ratio of times; of FLOPs",
    "stored, training alone: times; FLOPs", "stored, pass and two trainings: times; FLOPs",
    "stock TRL, peak MB (of the step)", "ours, stored reference: peak MB (of the step)",
]  # fmt: skip


def _spread(given: Iterable[float]) -> str:
    values = list(given)
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


def status_mb(field: str) -> float:
    """Of this process: `VmRSS` is its memory now, `VmHWM` the most since `forget_peak` (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Begin to measure the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")  # else the peak would be that of making the model


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--memory-of", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
    if options.memory_of:
        shape = next(shape for shape in SMALL if shape.name == options.shape)
        once = step(options.memory_of, shape, options.checkpointing, options.batch_size, **where)
        forget_peak()
        before = status_mb("VmRSS")
        once()
        print(json.dumps([before, status_mb("VmHWM")]))
        return
    rows = []
    for shape in SMALL:
        for checkpointing in (False, True):
            sides = compare(shape, checkpointing, options.batch_size, options.repeats, time.process_time, **where)
            memory = {
                kind: peak_memory_mb(kind, shape, checkpointing, options.batch_size) for kind in ("stock", "stored")
            }
            rows.append(row(shape, checkpointing, sides, memory))
            print(" | ".join(rows[-1]), flush=True)
    title = (
        f"DPO, a step of {options.batch_size} pair(s), float32, CPU seconds of one thread, {options.repeats} repeats"
    )
    add_rows(title, HEADER, rows)


if __name__ == "__main__":
    main()
