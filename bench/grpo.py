"""A step of GRPO: ours against stock TRL, on the same model, image, samples, adapter and precision.

`python -m bench.grpo` prints, and adds to bench/RESULTS.md, for narrow models of random weights at real ones' token
proportions, 8 and 32 answers of 100 and of 8 tokens to an image: the ratio of times (CPU seconds of one thread, so that
a busy machine disturbs less) of sampling, of the update (reference, policy, backward) and of both; the same bound in
counted floating-point operations and in tokens; and the peak memory. The optimiser is left out, it is the same on both.

Each side runs in a process of its own, in turn, and does a step twice: once for warm-up, with 2 answers, and once for
the figures. Both sample answers of a fixed length, which are then replaced by the same made-up ones, so that the losses
can be compared. Stock TRL takes at most `AT_A_TIME` answers in a pass of the update, else it would need too much
memory. Its FLOPs are counted with two answers and multiplied, because each answer has rows of its own.
"""

import argparse
import ctypes
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from datasets import Dataset
from trl import GRPOTrainer

from bench.dpo import counting, forget_peak, status_mb, switch_on_checkpointing
from bench.results import add_rows
from bench.shapes import NARROW, QUESTION, Shape, build, pictures
from pipeline_lib.config.base import Grpo
from pipeline_lib.train import rollout
from pipeline_lib.train.grpo import grpo_arguments, unit_rows
from pipeline_lib.train.lora import lora_config
from pipeline_lib.train.micro_batches import weighing_micro_batches
from pipeline_lib.train.prefix_shared_grpo import PrefixSharedGRPOTrainer
from pipeline_lib.train.rewards import UnitRewards
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.generate import Answers, Generated, inputs, prefix_generation

AT_A_TIME = 8
NEVER = 1_000_000
"""An end token that is in no vocabulary, so that answers have a fixed length."""

Clock = Callable[[], float]


class Work(NamedTuple):
    """What is measured: one image, and the answers to it."""

    shape: Shape
    answers: int
    tokens: int
    per_pass: int | None = None  # of ours

    def settings(self, answers: int | None = None) -> Grpo:
        """Those of GRPO, for another number of answers if given."""
        return Grpo(answers=answers or self.answers, max_new_tokens=self.tokens, answers_per_pass=self.per_pass)


class Figures(NamedTuple):
    """Of one side."""

    sampling_s: float
    update_s: float
    loss: float
    peak_mb: float
    step_mb: float  # of it, beside what was there before the step
    sampling_flops: int
    update_flops: int
    prompt_tokens: int


def made_up(work: Work, answers: int) -> list[list[int]]:
    """The samples that both sides are trained on."""
    draw = random.Random(0)
    return [[draw.randrange(20, 120) for _ in range(work.tokens)] for _ in range(answers)]


def made_up_rewards(answers: int) -> list[float]:
    """An advantage of its own for each."""
    draw = random.Random(1)
    return [draw.random() for _ in range(answers)]


class Side:
    """A trainer of one side, with an adapter that does something."""

    def __init__(self, work: Work, *, answers: int, checkpointing: bool, device: str, dtype: torch.dtype):
        self.work, self.answers = work, answers
        self.settings = work.settings(answers)
        model, processor = build(work.shape, device, dtype)
        model.generation_config.eos_token_id = NEVER
        self.image = pictures(work.shape, 1)[0]
        self.chat = render_chat(processor, QUESTION)
        self.options: dict[str, Any] = {
            "output_dir": tempfile.mkdtemp(prefix="whyscore-bench-"),
            "gradient_checkpointing": checkpointing,
            "bf16": dtype == torch.bfloat16,
            "use_cpu": device == "cpu",
            "max_length": None,
            "remove_unused_columns": False,
            "report_to": "none",
        }
        torch.manual_seed(1)
        self.trainer = self.make(model, processor)
        with torch.no_grad():
            for name, weight in self.trainer.model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
        self.trainer.accelerator.prepare(self.trainer.model)
        self.trainer.model.train()
        if checkpointing:
            switch_on_checkpointing(self.trainer)

    def make(self, model: Any, processor: Any) -> Any:
        """The trainer."""
        raise NotImplementedError

    def sample(self) -> Any:
        """Samples K answers, and returns the batches for the update with the made-up ones."""
        raise NotImplementedError

    def update(self, batches: Any) -> float:
        """Gradients of a step; returns the loss."""
        raise NotImplementedError


class Ours(Side):
    """A row an image."""

    def make(self, model: Any, processor: Any) -> Any:
        """As `train_adapter` makes it."""
        unit = pa.table({"images": [[{"image": "a", "image_sha256": ""}]], "prompt": [self.chat.prompt]})
        self.rows = unit_rows(unit, lambda image, sha256: self.image)
        inputs.end_ids = lambda *_: [NEVER]
        return weighing_micro_batches(PrefixSharedGRPOTrainer, 1)(
            model=model,
            args=grpo_arguments(self.settings, per_device_train_batch_size=1, **self.options),
            train_dataset=self.rows,
            processing_class=processor,
            peft_config=lora_config(model, self.work.shape.rank),
            settings=self.settings,
            chat=self.chat,
            reward=lambda unit, texts: UnitRewards(
                {"made up": [made_up_rewards(self.answers)]}, [[True] * self.answers]
            ),
            max_length=8192,
        )

    def sample(self) -> Any:
        """With the answers replaced when they are there."""

        def sampled(*given: Any, **options: Any) -> Answers:
            answers = prefix_generation.generate_answers(*given, **options)
            ((*found,),) = answers.answers
            self.prompt_tokens = found[0].prompt_tokens
            assert all(one.tokens == self.work.tokens for one in found)
            ids = made_up(self.work, self.answers)
            return answers._replace(
                answers=[[Generated("", len(one), False, self.prompt_tokens, tuple(one)) for one in ids]]
            )

        setattr(rollout, "generate_answers", sampled)  # noqa: B010 - that module does not export it
        self.trainer.get_train_dataloader()  # which knows the micro-batches of a step
        batches, _ = self.trainer.get_batch_samples(iter([[self.rows[0]]]), 1, self.trainer.args.device)
        return batches

    def update(self, batches: Any) -> float:
        """All passes of the step."""
        return sum(float(self.trainer.training_step(self.trainer.model, batch)) for batch in batches)


class Stock(Side):
    """TRL's trainer."""

    def make(self, model: Any, processor: Any) -> Any:
        """A row an answer."""
        begin = processor.tokenizer.bos_token
        if begin and self.chat.prompt.startswith(begin):
            processor.chat_template = f"{{{{ '{begin}' }}}}" + processor.chat_template
        self.row = {"prompt": [{"role": "user", "content": QUESTION}], "image": self.image}
        count = min(self.answers, AT_A_TIME)
        args = grpo_arguments(self.settings, per_device_train_batch_size=1, **self.options)
        args.per_device_train_batch_size, args.steps_per_generation = count, self.answers // count
        args.gradient_accumulation_steps = self.answers // count
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda **_: made_up_rewards(self.answers),
            args=args,
            train_dataset=Dataset.from_dict({"at": [0]}).with_transform(
                lambda _: {k: [v] for k, v in self.row.items()}
            ),
            processing_class=processor,
            peft_config=lora_config(model, self.work.shape.rank),
        )
        trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = NEVER
        trainer.eos_token_ids = [NEVER]
        trainer.current_gradient_accumulation_steps = self.answers // count
        return trainer

    def sample(self) -> Any:
        """Its own sampling alone; scoring belongs to the update."""
        own = GRPOTrainer._generate_single_turn
        rows = [self.row] * self.answers
        prompts = [
            [{"role": "user", "content": [{"type": "image", "image": self.image}, {"type": "text", "text": QUESTION}]}]
            for _ in rows
        ]
        ids, images, fields = self.trainer._tokenize_prompts(prompts)
        found, _ = own(self.trainer, ids, images, fields, self.answers)
        assert all(len(one) == self.work.tokens for one in found)
        self.prompt_tokens = len(ids[0])
        return rows

    def update(self, batches: Any) -> float:
        """Reference and advantages of all answers, then the passes."""
        trainer = self.trainer
        trainer._generate_single_turn = lambda *_: (made_up(self.work, self.answers), None)
        trainer._step, trainer._buffered_inputs = 0, None
        return sum(
            float(trainer.training_step(trainer.model, batches, None)) for _ in range(trainer.args.steps_per_generation)
        )


KINDS: dict[str, Any] = {"ours": Ours, "stock": Stock}


def measure(kind: str, work: Work, checkpointing: bool, clock: Clock, device: str, dtype: torch.dtype) -> Figures:
    """A step of one side in this process, after one with two answers; its FLOPs are counted in a third."""
    make = partial(KINDS[kind], work, checkpointing=checkpointing, device=device, dtype=dtype)
    small = make(answers=2)
    small.update(small.sample())
    del small
    forget, peak_mb, now_mb = MEMORY[device]
    forget()
    side = make(answers=work.answers)
    before, times = now_mb(), [clock()]
    batches = side.sample()
    times.append(clock())
    loss = side.update(batches)
    times.append(clock())
    peak = peak_mb()
    # Each answer of stock TRL has rows of its own.
    counted, more = (side, 1) if kind == "ours" else (make(answers=2), work.answers // 2)
    with counting(device) as of_sampling:
        batches = counted.sample()
    with counting(device) as of_update:
        counted.update(batches)
    sampling_flops, update_flops = (more * int(counter.get_total_flops()) for counter in (of_sampling, of_update))
    return Figures(
        sampling_s=times[1] - times[0],
        update_s=times[2] - times[1],
        loss=loss,
        peak_mb=peak,
        step_mb=peak - before,
        sampling_flops=sampling_flops,
        update_flops=update_flops,
        prompt_tokens=side.prompt_tokens,
    )


def _forget_on_cpu() -> None:
    gc.collect()  # a trainer and its model hold each other
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory that is free counts as this process's
    forget_peak()


def _forget_on_gpu() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


MEMORY: dict[str, tuple[Callable[[], None], Callable[[], float], Callable[[], float]]] = {
    "cpu": (_forget_on_cpu, lambda: status_mb("VmHWM"), lambda: status_mb("VmRSS")),
    "cuda": (
        _forget_on_gpu,
        lambda: torch.cuda.max_memory_allocated() / 2**20,
        lambda: torch.cuda.memory_allocated() / 2**20,
    ),
}


def token_bound(prompt: int, answers: int, tokens: int) -> float:
    """How many times fewer tokens go through the language model, in each of sampling, reference and policy."""
    return answers * (prompt + tokens) / (prompt + answers * tokens)


def row(work: Work, ours: Figures, stock: Figures) -> list[str]:
    """A row of the table in RESULTS.md."""
    whole = (stock.sampling_s + stock.update_s) / (ours.sampling_s + ours.update_s)
    bound = (stock.sampling_flops + stock.update_flops) / (ours.sampling_flops + ours.update_flops)
    return [
        work.shape.name,
        f"{ours.prompt_tokens:,}",
        f"{work.answers} of {work.tokens}",
        f"{stock.sampling_s:.1f} + {stock.update_s:.1f}",
        f"{ours.sampling_s:.1f} + {ours.update_s:.1f}",
        f"{stock.sampling_s / ours.sampling_s:.1f}x; {stock.sampling_flops / ours.sampling_flops:.1f}x",
        f"{stock.update_s / ours.update_s:.1f}x; {stock.update_flops / ours.update_flops:.1f}x",
        f"**{whole:.1f}x**; {bound:.1f}x ({100 * whole / bound:.0f} %)",
        f"{token_bound(ours.prompt_tokens, work.answers, work.tokens):.1f}x",
        f"{stock.peak_mb:,.0f} (+{stock.step_mb:,.0f})",
        f"{ours.peak_mb:,.0f} (+{ours.step_mb:,.0f})",
    ]


HEADER = [
    "model", "prompt tokens", "answers of tokens", "stock TRL, s: sampling + update", "ours, s: sampling + update",
    "sampling: ratio of times; of FLOPs", "update: times; FLOPs", "whole step: times; FLOPs (share)", "bound in tokens",
    "stock TRL, peak MB (of the step)", "ours, peak MB (of the step)",
]  # fmt: skip


def in_process(kind: str, work: Work, checkpointing: bool) -> Figures:
    """`measure` in a process of its own, whose peak of memory is that side's."""
    command = [sys.executable, "-m", "bench.grpo", "--side", kind, "--shape", work.shape.name]
    command += ["--answers", str(work.answers), "--tokens", str(work.tokens)]
    command += ["--answers-per-pass", str(work.per_pass)] if work.per_pass else []
    done = subprocess.run(
        [*command, *(["--checkpointing"] if checkpointing else [])], check=True, capture_output=True, text=True
    )
    return Figures(*json.loads(done.stdout.splitlines()[-1]))


def compare(
    work: Work, checkpointing: bool, run: Callable[[str, Work, bool], Figures], tolerance: float = 1e-3
) -> list[str]:
    """Both sides in turn; ends the run when their losses differ."""
    ours, stock = (run(kind, work, checkpointing) for kind in ("ours", "stock"))
    if abs(ours.loss - stock.loss) > tolerance * abs(stock.loss) + 1e-6:
        raise SystemExit(f"{work.shape.name}: the losses differ, one of them is wrong: {ours.loss}, {stock.loss}")
    return row(work, ours, stock)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=[shape.name for shape in NARROW], help="one model alone")
    parser.add_argument("--answers", type=int, action="append")
    parser.add_argument("--tokens", type=int, action="append")
    parser.add_argument("--answers-per-pass", type=int)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--side", choices=list(KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    works = [
        Work(shape, answers, tokens, options.answers_per_pass)
        for shape in NARROW
        if options.shape in (None, shape.name)
        for tokens in options.tokens or (100, 8)
        for answers in options.answers or (8, 32)
    ]
    if options.side:
        (work,) = works
        print(json.dumps(measure(options.side, work, options.checkpointing, time.process_time, "cpu", torch.float32)))
        return
    rows = []
    for work in works:
        rows.append(compare(work, options.checkpointing, in_process))
        print(" | ".join(rows[-1]), flush=True)
    title = "GRPO, a step of one image, float32, CPU seconds of one thread, one step"
    add_rows(title + (", gradient checkpointing" if options.checkpointing else ""), HEADER, rows)


if __name__ == "__main__":
    main()
