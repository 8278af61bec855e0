"""The estimates of `whyscore doctor` beside real runs of a size that fits here: `python -m bench.sizes`.

Each stage runs in two processes of its own, one for memory and one for time, on a model of random weights: its peak
memory beside that of the process before the model was made, and its CPU seconds without making the model. Token counts
are those of the run, and lengths of answers are exact, so what is tested is the counting and the speeds, not how long a
real model's answers are.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.dpo import forget_peak, reference, status_mb
from bench.grpo import Ours, Work
from bench.results import add_rows
from bench.shapes import QUESTION, Shape, build, pairs, pictures
from pipeline_lib.checks.estimate.ceiling import Ceiling, measure
from pipeline_lib.checks.estimate.cost import Setting, cost_of
from pipeline_lib.checks.estimate.model_size import saved_bytes, size_of
from pipeline_lib.checks.estimate.stages import Stage
from pipeline_lib.config.base import Lora
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.train.prefix_rows import PAIR
from pipeline_lib.train.stored_reference import REFERENCE
from pipeline_lib.vlm.chat import render_chat, tokens
from pipeline_lib.vlm.generate import Question, Sampled, generate_answers, inputs
from pipeline_lib.vlm.load import Vlm

SHAPES = {
    "llava": Shape("LLaVA-1.5, 237 M", "llava", (12, 1024, 2752, 16, 32064), (6, 512, 2048, 8), (336, 336), 64),
    "qwen": Shape("Qwen2.5-VL, 164 M", "qwen2_5_vl", (12, 768, 4096, 12, 32064), (4, 512, 1376, 8), (448, 336), 64),
}
STAGES = ("generate", "read", "dpo", "dpo, checkpointing", "grpo")
HEADER = [
    "model", "stage", "MB: estimated, in use, peak with glibc's defaults", "estimated / in use",
    "seconds: estimated, measured", "ratio",
]  # fmt: skip
ROWS, ANSWER, NEVER = 4, 48, 1_000_000

Counts = dict[str, float]

RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""So that memory that is free goes back at once, which costs time; else glibc keeps what it may use again."""


def run(shape: Shape, kind: str) -> dict[str, float]:
    """Do the work of a stage; its peak in MB beside that of before, its seconds, and its counts of tokens."""
    make = {"generate": _generate, "read": _read, "grpo": _grpo}.get(kind, _train)
    make(shape._replace(text=(2, 64, 64, 4, 512), vision=(2, 64, 64, 2)), kind)[0]()  # which imports all that is needed
    gc.collect()
    before = status_mb("VmRSS")
    work, counts = make(shape, kind)
    gc.collect()
    forget_peak()  # making a model may need more than using it
    begun = time.process_time()
    work()
    return {"mb": status_mb("VmHWM") - before, "seconds": time.process_time() - begun, **counts}


def _generate(shape: Shape, _: str) -> tuple[Any, Counts]:
    model, processor = build(shape)
    vlm, chat = Vlm(model, processor, torch.device("cpu")), render_chat(processor, QUESTION)
    inputs.end_ids = lambda *_: [NEVER]
    images = pictures(shape, ROWS)
    questions = [Question(chat, [image], ["", " #"], key=str(at)) for at, image in enumerate(images)]
    sampled = Sampled(max_new_tokens=ANSWER, temperature=1.0, seed=0)
    prompt = len(tokens(processor.tokenizer, chat.prompt)) - 1
    counts: Counts = {"rows": ROWS, "prompt": prompt, "answers": 2, "length": ANSWER, "at_once": ROWS}
    return lambda: generate_answers(vlm, questions, sampled), counts


def pair_counts(shape: Shape, processor: Any, at_once: int) -> Counts:
    """Of the pairs of `bench.shapes`; the prompt without the token of its image."""
    given = pairs(shape, ROWS)
    prompt = len(tokens(processor.tokenizer, given[0]["prompt"])) - 1
    length = sum(len(tokens(processor.tokenizer, given[0][side])) for side in PAIR) / 2
    return {"rows": ROWS, "prompt": prompt, "answers": 2, "length": length, "at_once": at_once}


def _read(shape: Shape, _: str) -> tuple[Any, Counts]:
    counts = pair_counts(shape, build(shape._replace(text=(1, 64, 64, 1, 512)))[1], ROWS)
    return reference(shape, ROWS, "cpu", torch.float32), counts | {"answers": 3}


def _train(shape: Shape, kind: str) -> tuple[Any, Counts]:
    from datasets import Dataset
    from trl import DPOConfig

    from pipeline_lib.data.image_set import ImageSet
    from pipeline_lib.train.job import DPO, Place, TrainingJob
    from pipeline_lib.train.stored_reference import FastDPOTrainer
    from pipeline_lib.train.trainer import train_adapter
    from pipeline_lib.vlm.model_ref import ModelRef

    model, processor = build(shape)
    vlm = Vlm(model, processor, torch.device("cpu"))
    rows = [row | dict.fromkeys(REFERENCE, -100.0) for row in pairs(shape, ROWS)]
    folder = Path(tempfile.mkdtemp(prefix="whyscore-bench-"))
    base = ModelRef(name="bench", location="", revision=None, fingerprint="", dtype="float32", resize_px=336)
    images = ImageSet(table=ArtifactRef(stage="discretize", key="k"), folder="", max_megapixels=1.0)
    job = TrainingJob(
        base=base, prompt="", images=images, loss=DPO(beta=0.1, sft_weight=0.0), start=None, seed=0,
        lora=Lora(lora_rank=shape.rank, batch_size=2, micro_batch_size=2), learning_rate=1e-5,
    )  # fmt: skip
    place = Place(
        store=ArtifactStore(str(folder / "store")), address="steps/bench/k", save_to=folder / "adapter",
        label="bench", checkpoint_every=1000, gradient_checkpointing="checkpointing" in kind,
    )  # fmt: skip
    (folder / "adapter").mkdir()
    data = Dataset.from_dict({"at": list(range(ROWS))}).with_transform(
        lambda batch: {name: [rows[at][name] for at in batch["at"]] for name in rows[0]}
    )
    return (
        lambda: train_adapter(
            FastDPOTrainer, lambda **options: DPOConfig(**options), vlm, data, job, place, figures={}
        ),
        pair_counts(shape, processor, 2) | {"rank": shape.rank},
    )


def _grpo(shape: Shape, _: str) -> tuple[Any, Counts]:
    side = Ours(Work(shape, 8, ANSWER, 4), answers=8, checkpointing=False, device="cpu", dtype=torch.float32)
    prompt = len(tokens(side.trainer.processing_class.tokenizer, side.chat.prompt)) - 1
    counts: Counts = {"rows": 1, "prompt": prompt, "answers": 8, "length": ANSWER, "at_once": 1, "passes": 2}
    return lambda: side.update(side.sample()), counts | {"rank": shape.rank}


def estimate(shape: Shape, kind: str, measured: dict[str, float], ceiling: Ceiling) -> tuple[float, float]:
    """MB and seconds that the estimate says of what was measured."""
    small, processor = build(shape, "meta")
    size = size_of(small.config, processor, shape.image_px)
    does: Any = kind.split(",")[0]
    counts = {name: value for name, value in measured.items() if name not in ("mb", "seconds")}
    stage = Stage(kind, does, **{"limit": counts["length"], **counts})  # type: ignore[arg-type]
    saved = saved_bytes(small.config, max(1, stage.rank), torch.float32)
    setting = Setting(4, kind == "dpo, checkpointing", saved)
    cost = cost_of(stage, size, ceiling, setting)
    return cost.memory / 2**20, cost.seconds


def _child(name: str, kind: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.sizes", "--shape", name, "--stage", kind]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), help="One of the models alone")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help="Add the table to bench/RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage:
        print(json.dumps(run(SHAPES[options.shape], options.stage)))
        return
    rows = []
    for name in [options.shape] if options.shape else SHAPES:
        for kind in STAGES:
            ceiling = measure(torch.device("cpu"), torch.float32, time.process_time)
            in_use, measured = _child(name, kind, RETURN_MEMORY), _child(name, kind, {})
            mb, seconds = estimate(SHAPES[name], kind, measured, ceiling)
            rows.append([
                SHAPES[name].name, kind, f"{mb:,.0f}, {in_use['mb']:,.0f}, {measured['mb']:,.0f}",
                f"{mb / in_use['mb']:.2f}", f"{seconds:.1f}, {measured['seconds']:.1f}",
                f"{seconds / measured['seconds']:.2f}",
            ])  # fmt: skip
            print(" | ".join(rows[-1]), ceiling, flush=True)
    if options.keep:
        add_rows("Estimates of memory and seconds beside runs, float32, CPU seconds of one thread", HEADER, rows)


if __name__ == "__main__":
    main()
