"""Pairs of unequal lengths about images of unequal shapes, and tiny models with an adapter that does something."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from pipeline_lib.methods.self_improve.pairs import PAIR_ANSWERS
from pipeline_lib.testing.tiny import PROMPT, picture
from pipeline_lib.testing.tiny_families import FAMILIES, Family
from pipeline_lib.train.lora import lora_config
from pipeline_lib.train.prefix_rows import PAIR, Row, collate_rows
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.load import Vlm

BY_DEFAULT = ("llava-next-mistral", "internvl-qwen2", "qwen2.5-vl")
"""Tiles of unequal number, tiles of one size, positions in three dimensions: one of each kind that there is."""


def each_family(*values: Any) -> list[Any]:
    """Parameters of a test that runs for all families: the name and the values."""
    return [pytest.param(family.name, *values, id="-".join(map(str, (family.name, *values)))) for family in FAMILIES]


def three_families(*values: Any) -> list[Any]:
    """The same for a test whose branch does not depend on the family: the others run with --all-families alone."""
    longer = pytest.mark.only_with("--all-families")
    return [
        pytest.param(*case.values, id=case.id, marks=[] if case.values[0] in BY_DEFAULT else [longer])
        for case in each_family(*values)
    ]


SHAPES = [(28, 28), (60, 30), (30, 90), (56, 42), (42, 84), (28, 56)]
GOOD = ["sharp.", "calm, the light is good and the colours are bright.", "bright, the light is good."]
BAD = ["dull and grey, the light is dull, the picture is dull.", "dull.", "grey, the colours are dull."]


class Tiny(NamedTuple):
    model: Any
    processor: Any
    chat: Chat


def family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def bare(name: str) -> Tiny:
    model, processor = family(name).make()
    return Tiny(model, processor, render_chat(processor, PROMPT))


def adapted(name: str, dtype: torch.dtype = torch.float32) -> Tiny:
    """With an adapter of rank 4 whose effect is as large as the weights'."""
    tiny = bare(name)
    torch.manual_seed(1)
    model = get_peft_model(tiny.model, lora_config(tiny.model, 4))
    for path, weight in model.named_parameters():
        if "lora_B" in path:
            torch.nn.init.normal_(weight, std=0.05)
    return tiny._replace(model=model.to(dtype).eval())


def pairs(chat: Chat, count: int) -> list[dict[str, Any]]:
    """Prompts of two lengths; every second rejected answer is one that was cut off."""
    rows = []
    for at in range(count):
        width, height = SHAPES[at % len(SHAPES)]
        longer = PROMPT if at % 2 else f"{PROMPT} The picture is sharp and bright."
        chosen, rejected = f"#Score: {at % 10}\n\n#Explain: {GOOD[at % 3]}", f"#Score: 5\n\n#Explain: {BAD[at % 3]}"
        rows.append(
            {
                "image": picture(f"{at}.png", 96).crop((0, 0, width, height)),
                "prompt": chat.prompt.replace(PROMPT, longer),
                "chosen": chat.answer(chosen),
                "rejected": chat.answer(rejected, finished=at % 2 == 0),
            }
        )
    return rows


def triples(chat: Chat, count: int) -> list[dict[str, Any]]:
    """Pairs with a third answer, of a length of its own; every third pair has none."""
    texts = [f"#Score: {at % 10}\n\n#Explain: {BAD[(at + 1) % 3]}" for at in range(count)]
    return [
        row | {"swapped": chat.answer(text) if at % 3 else ""}
        for at, (row, text) in enumerate(zip(pairs(chat, count), texts, strict=True))
    ]


def data(rows: list[dict[str, Any]]) -> Dataset:
    table = Dataset.from_dict({"at": list(range(len(rows)))})
    return table.with_transform(lambda batch: {name: [rows[at][name] for at in batch["at"]] for name in rows[0]})


def plain_batch(tiny: Tiny, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What stock TRL makes of pairs: a row for each answer."""
    return _typed(tiny, dict(DataCollatorForVisionPreference(tiny.processor)([dict(row) for row in rows])))


def shared_batch(tiny: Tiny, rows: list[dict[str, Any]], answers: tuple[str, ...] = PAIR) -> dict[str, Any]:
    return _typed(tiny, collate_rows(tiny.processor, as_rows(rows, answers)))


def _typed(tiny: Tiny, batch: dict[str, Any]) -> dict[str, Any]:
    """With pixels in float64 where the weights are: a convolution, unlike the other towers, does not convert them."""
    double = tiny.model.dtype == torch.float64
    return batch | ({"pixel_values": batch["pixel_values"].double()} if double else {})


def as_rows(rows: list[dict[str, Any]], answers: Sequence[str] = PAIR) -> list[Row]:
    """Pairs in the form that knows no names of answers."""
    return [Row([row["image"]], row["prompt"], [row[answer] for answer in answers]) for row in rows]


Logps = Callable[[Vlm, Sequence[Row]], list[list[float]]]


def logps_by_name(logps: Logps, vlm: Vlm, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Of triples, for each of `PAIR_ANSWERS` a value a row."""
    found = logps(vlm, as_rows(rows, PAIR_ANSWERS))
    return {answer: [values[at] for values in found] for at, answer in enumerate(PAIR_ANSWERS)}
