"""Explanations of two scores an image: ours (one prefill an image) against `generate` called once for each text.

    python -m bench.generation

Random weights and a small language model on a CPU, with the proportions of real models: sides of tiles are halved, so
that images have a quarter of their tokens, and answers have a quarter of 150. Both sides get the same images, prompt
and beginnings, use the batch size that was the fastest for them in the warm-up, and run in turn; their texts must be
identical. Seconds are those of the processor, since the machine may be shared; wall-clock seconds stand beside them.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import torch
import transformers as t
from PIL import Image

from bench.results import add_rows
from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.methods.self_improve.score_pairs import draw_wrong_score, generate_score_pairs
from pipeline_lib.progress import Progress
from pipeline_lib.testing.tiny import PROMPT, picture
from pipeline_lib.testing.tiny_families import VICUNA, sentencepiece
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.load import Vlm

ROUNDS = 3
TILE_PX, PATCH_PX = 168, 14
PINPOINTS = [[168, 336], [336, 168], [336, 336], [504, 168], [168, 504]]
SIZES = [(224, 168), (168, 224), (224, 224), (224, 168)]
"""Two landscapes, a portrait, a square."""
ANSWER_TOKENS = 38
BATCHES = (4, 8)  # texts at a time
MIN_DISTANCE = 3
HEADER = [
    "proportions of",
    "`generate` once a text, images per CPU second",
    "one prefill an image, images per CPU second",
    "ratio",
    "tokens through the language model",
    "same texts",
]


class Case(NamedTuple):
    """A model with its images."""

    name: str
    vlm: Vlm
    chat: Chat
    table: pa.Table
    images: dict[str, Image.Image]


class Run(NamedTuple):
    """One pass over all images."""

    texts: list[str]
    seconds: float
    wall_s: float


def main() -> None:
    """Add images/s of both sides, their ratio, and what the count of tokens would give, to bench/RESULTS.md."""
    torch.set_num_threads(1)
    t.utils.logging.set_verbosity_error()
    rows = [compare(case_of(*make(), SIZES)) for make in (_llava_next, _llava_1_5)]
    title = f"Generation: {len(SIZES)} images, 2 explanations each, {ROUNDS} rounds in turn, 1 thread"
    add_rows(title, HEADER, rows)


def compare(
    case: Case,
    sizes: Sequence[int] = BATCHES,
    length: int = ANSWER_TOKENS,
    clock: Callable[[], float] = time.process_time,
    *,
    exact: bool = True,
) -> list[str]:
    """A row of the table: each side at its best of the batch `sizes` (texts at a time), `length` tokens an answer.

    In 16 bit a tie between tokens falls one way or the other with the shape of a batch, so texts need not be `exact`.
    """
    sides: list[Callable[[int], list[str]]] = [
        lambda size: plain(case, size, length),
        lambda size: ours(case, size, length),
    ]
    trials = [{size: _timed(side, size, clock) for size in sizes} for side in sides]
    best = [min(runs, key=lambda size: runs[size].seconds) for runs in trials]
    rounds = [[_timed(side, size, clock) for side, size in zip(sides, best, strict=True)] for _ in range(ROUNDS)]
    every = [run for runs in [*rounds, *(tried.values() for tried in trials)] for run in runs]
    if exact and any(run.texts != every[0].texts for run in every):
        sys.exit(f"{case.name}: the two sides wrote different texts")
    same = sum(a == b for a, b in zip(rounds[0][0].texts, rounds[0][1].texts, strict=True))
    once, shared, prefix = _token_counts(case, length)
    row = [
        f"{case.name}, {prefix:.0f} tokens before an answer",
        *(_rates([runs[at] for runs in rounds], best[at]) for at in range(len(sides))),
        "**" + _spread([peer.seconds / own.seconds for peer, own in rounds], "x") + "**",
        f"{once / shared:.2f}x ({once:,} / {shared:,})",
        "yes" if exact else f"{same} of {2 * len(case.images)}",
    ]
    print(" | ".join(row), flush=True)
    return row


def _rates(runs: list[Run], size: int) -> str:
    count = len(runs[0].texts) / 2
    clock = statistics.median(count / run.wall_s for run in runs)
    return f"{_spread([count / run.seconds for run in runs])}; {clock:.2f} by the clock; {size} texts at a time"


def _spread(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f}-{max(values):.2f})"


def plain(case: Case, size: int, length: int) -> list[str]:
    """`model.generate` on batches of texts, each with its image, as one would call it."""
    processor, model = case.vlm.processor, case.vlm.model
    asked = [(row["image"], score) for row in case.table.to_pylist() for score in _scores(row)]
    texts = []
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        inputs = processor(
            images=[[case.images[name]] for name, _ in batch],
            text=[case.chat.prompt + case.chat.separator + answer_prefix(score) for _, score in batch],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        ).to(case.vlm.device, dtype=model.dtype)
        with torch.inference_mode():
            found = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=length,
                eos_token_id=processor.tokenizer.eos_token_id,
                suppress_tokens=[processor.image_token_id],
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        for (_, score), row in zip(batch, found, strict=True):
            whole = processor.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            texts.append(whole[whole.rindex(answer_prefix(score)) :])
    return texts


def ours(case: Case, size: int, length: int) -> list[str]:
    """The stage's own function, from opening an image to the table."""
    table = generate_score_pairs(
        case.vlm,
        case.chat,
        case.table,
        lambda image, _: case.images[image],
        min_distance=MIN_DISTANCE,
        max_new_tokens=length,
        batch_size=size,
        seed=0,
        iteration=1,
        progress=Progress("pairs", len(case.images)),
    )
    return [row[side] for row in table.to_pylist() for side in ("chosen", "rejected")]


def _timed(side: Callable[[int], list[str]], size: int, clock: Callable[[], float]) -> Run:
    begun, wall = clock(), time.perf_counter()
    texts = side(size)
    return Run(texts, clock() - begun, time.perf_counter() - wall)


def _scores(row: dict[str, Any]) -> tuple[int, int]:
    return row["bin"], draw_wrong_score(row["bin"], MIN_DISTANCE, 0, 1, row["image"])


def _token_counts(case: Case, length: int) -> tuple[int, int, float]:
    tokenizer, chat = case.vlm.processor.tokenizer, case.chat
    answer = len(tokens(tokenizer, chat.separator + answer_prefix(7))) + length
    prefixes = [
        case.vlm.processor(images=[[image]], text=[chat.prompt], return_tensors="pt", add_special_tokens=False)
        for image in case.images.values()
    ]
    prefix = sum(inputs["input_ids"].shape[1] for inputs in prefixes)
    count = len(case.images)
    return 2 * (prefix + count * answer), prefix + 2 * count * answer, prefix / count


def case_of(name: str, model: Any, processor: Any, sizes: Sequence[tuple[int, int]], device: str = "cpu") -> Case:
    """A model with an image of each of the `sizes`."""
    side = max(max(size) for size in sizes)
    images = {f"{at}.png": picture(f"{at}", side).crop((0, 0, *size)) for at, size in enumerate(sizes)}
    table = pa.table(
        {
            "image": list(images),
            "image_sha256": [""] * len(sizes),
            "bin": [(7 * at + 1) % 10 for at in range(len(sizes))],
            "width_px": [size[0] for size in sizes],
            "height_px": [size[1] for size in sizes],
        }
    )
    with torch.no_grad():  # logits far enough apart that rounding does not decide between tokens
        model.lm_head.weight *= 10
    return Case(name, Vlm(model, processor, torch.device(device)), render_chat(processor, PROMPT), table, images)


def _parts(processor_class: Any, images: Any) -> tuple[Any, dict[str, Any]]:
    tokenizer = sentencepiece(extra_special_tokens={"image_token": "<image>"})
    processor = processor_class(
        images,
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    vision = t.CLIPVisionConfig(
        image_size=TILE_PX,
        patch_size=PATCH_PX,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=2,
    )
    text = t.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return processor, {"vision_config": vision, "text_config": text, "image_token_index": processor.image_token_id}


def _llava_next() -> tuple[str, Any, Any]:
    images = t.LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE_PX},
        crop_size={"height": TILE_PX, "width": TILE_PX},
        image_grid_pinpoints=PINPOINTS,
    )
    processor, configs = _parts(t.LlavaNextProcessor, images)
    torch.manual_seed(0)
    model = t.LlavaNextForConditionalGeneration(t.LlavaNextConfig(image_grid_pinpoints=PINPOINTS, **configs))
    return "LLaVA-NeXT, 3 and 5 tiles", model.eval(), processor


def _llava_1_5() -> tuple[str, Any, Any]:
    size = {"height": TILE_PX, "width": TILE_PX}
    images = t.CLIPImageProcessorPil(size={"shortest_edge": TILE_PX}, crop_size=size)
    processor, configs = _parts(t.LlavaProcessor, images)
    torch.manual_seed(0)
    model = t.LlavaForConditionalGeneration(t.LlavaConfig(**configs))
    return "LLaVA-1.5", model.eval(), processor


if __name__ == "__main__":
    main()
