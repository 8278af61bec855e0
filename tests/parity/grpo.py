"""Steps of GRPO on samples that are given, by ours and by stock TRL: the same images, answers and rewards in each.

A step has three units of two images. What an answer is follows from the step, the image and its number, and what it
earns from the image and the answer. So both trainers see the same, however they order their batches.
"""

import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from PIL.Image import Image
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from pipeline_lib.config.base import Grpo
from pipeline_lib.testing.tiny import PROMPT, picture
from pipeline_lib.train import rollout
from pipeline_lib.train.grpo import grpo_arguments, unit_rows
from pipeline_lib.train.lora import lora_config
from pipeline_lib.train.micro_batches import weighing_micro_batches
from pipeline_lib.train.prefix_shared_grpo import PrefixSharedGRPOTrainer
from pipeline_lib.train.rewards import UnitRewards
from pipeline_lib.vlm.generate import Answers, Generated, Question
from pipeline_lib.vlm.generate.features import image_features
from pipeline_lib.vlm.generate.inputs import model_inputs
from tests.parity.pairs import SHAPES, Tiny, bare, data

UNITS, IMAGES = 3, 2
SETTINGS = Grpo(answers=4, max_new_tokens=12, beta=0.05)
STEPS = 20


class Trained(NamedTuple):
    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]  # of the first step
    log: list[dict[str, float]]
    logps: dict[tuple[int, ...], list[list[float]]]  # of each answer of the first step: reference, policy
    read: int  # tokens that the updates put into the language model, padding included
    encoded: int  # patches or tiles that went into the vision tower


def shown(name: str) -> Image:
    """Images of six shapes: of another number of tiles, or of other patches."""
    width, height = SHAPES[int(name.partition(".")[0])]
    return picture(name, 96).crop((0, 0, width, height))


NAMES = [f"{at}.png" for at in range(UNITS * IMAGES)]
_BY_PIXELS = {hashlib.sha256(shown(name).tobytes()).hexdigest(): name for name in NAMES}


def name_of(image: Image) -> str:
    return _BY_PIXELS[hashlib.sha256(image.tobytes()).hexdigest()]


def given_answer(processor: Any, step: int, image: str, number: int) -> list[int]:
    """2 to 11 tokens of plain text and an end token; every third answer is cut off."""
    draw = random.Random(f"{step} {image} {number}")
    special = set(processor.tokenizer.all_special_ids)
    plain = [at for at in range(300) if at not in special]
    ids = [draw.choice(plain) for _ in range(draw.randint(2, 11))]
    return ids if number % 3 == 2 else [*ids, processor.tokenizer.eos_token_id]


def given_reward(image: str, ids: Sequence[int]) -> dict[str, float]:
    """Two parts; all answers to the first image have the same reward."""
    if image == NAMES[0]:
        return {"rank": 0.7, "format": 1.0}
    draw = random.Random(f"{image} {list(ids)}")
    return {"rank": draw.random(), "format": float(draw.random() < 0.8)}


def reward(unit: dict[str, Any], answers: list[list[str]]) -> UnitRewards:
    """Of the answers of `replay`, whose text is the list of their tokens."""
    images = [image["image"] for image in unit["images"]]
    found = [
        [given_reward(image, json.loads(text)) for text in of_image]
        for image, of_image in zip(images, answers, strict=True)
    ]
    parts = {part: [[one[part] for one in of_image] for of_image in found] for part in ("rank", "format")}
    return UnitRewards(parts, [[one["format"] == 1.0 for one in of_image] for of_image in found])


def replay(vlm: Any, questions: list[Question], decoding: Any, *, keep_features: bool) -> Answers:
    """In the place of `generate_answers`."""
    assert not vlm.model.training and keep_features
    answers = [[_replayed(vlm, asked, at) for at in range(len(asked.beginnings))] for asked in questions]
    inputs = [dict(model_inputs(vlm, [asked.images], [asked.chat.prompt])) for asked in questions]
    return Answers(answers, [], [image_features(vlm.model.model, of_image) for of_image in inputs])


def _replayed(vlm: Any, asked: Question, number: int) -> Generated:
    ids = given_answer(vlm.processor, json.loads(asked.key)[0], name_of(asked.images[0]), number)
    return Generated(str(ids), len(ids), ids[-1] == vlm.processor.tokenizer.eos_token_id, 60, tuple(ids))


def replay_for_stock(trainer: Any, prompt_ids: Any, images: list[list[Image]], *_: Any) -> tuple[list[list[int]], None]:
    """In the place of TRL's `_generate_single_turn`, which is given an image once for each of its answers."""
    trainer.shown = [name_of(of_prompt[0]) for of_prompt in images]
    numbers = [at % trainer.num_generations for at in range(len(images))]
    step = trainer.state.global_step
    answers = [
        given_answer(trainer.processing_class, step, name, number)
        for name, number in zip(trainer.shown, numbers, strict=True)
    ]
    return answers, None


def units(prompt: str) -> pa.Table:
    images = [
        [{"image": name, "image_sha256": "0" * 64} for name in NAMES[first : first + IMAGES]]
        for first in range(0, len(NAMES), IMAGES)
    ]
    return pa.table({"images": images, "prompt": [prompt] * UNITS})


class _Keep(TrainerCallback):
    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not self.gradients:
            self.gradients = {
                path: weight.grad.clone() for path, weight in model.named_parameters() if weight.grad is not None
            }


def options_of(steps: int, batch: int, passes: int, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(prefix="whyscore-test-"),
        "learning_rate": 5e-5,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": passes,
        "gradient_checkpointing": False,
        "max_grad_norm": 1e9,
        "bf16": False,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "use_cpu": True,
        "seed": 3,
        "disable_tqdm": True,
    } | changes


def train(
    kind: str,
    name: str,
    settings: Grpo = SETTINGS,
    *,
    steps: int = STEPS,
    micro: int = UNITS,
    stock_images: int = 1,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Trained:
    """`ours` with micro-batches of `micro` units, or `stock` with some images at a time.

    Stock TRL pads prompts on the left, which moves the positions of their tokens, and rotations by these are rounded in
    float32. With one image at a time nothing is padded.
    """
    tiny = bare(name)
    tiny.model.to(dtype)
    torch.manual_seed(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout, "generate_answers", replay)
        patch.setattr(GRPOTrainer, "_generate_single_turn", replay_for_stock)
        if kind == "ours":
            trainer = _ours(tiny, settings, options_of(steps, micro, UNITS // micro, **changes))
        else:
            trainer = _stock(tiny, settings, options_of(steps, stock_images, len(NAMES) // stock_images, **changes))
        torch.manual_seed(1)
        with torch.no_grad():  # an adapter that does something: with a fresh one policy and reference are the same
            for path, weight in trainer.model.named_parameters():
                if "lora_B" in path:
                    torch.nn.init.normal_(weight, std=0.05)
        keep, logps, counts = _Keep(), _spy(trainer), _count_work(trainer)
        trainer.add_callback(keep)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    weights = {path: weight.detach().clone() for path, weight in trainer.model.named_parameters() if "lora_" in path}
    return Trained(
        weights, keep.gradients, [row for row in trainer.state.log_history if "loss" in row], logps, **counts
    )


def _ours(tiny: Tiny, settings: Grpo, options: dict[str, Any]) -> Any:
    kind = weighing_micro_batches(PrefixSharedGRPOTrainer, options["gradient_accumulation_steps"])
    return kind(
        model=tiny.model,
        args=grpo_arguments(settings, **options),
        train_dataset=unit_rows(units(tiny.chat.prompt), lambda image, sha256: shown(image)),
        processing_class=tiny.processor,
        peft_config=lora_config(tiny.model, 4),
        settings=settings,
        chat=tiny.chat,
        reward=reward,
        max_length=400,
    )


def _stock(tiny: Tiny, settings: Grpo, options: dict[str, Any]) -> Any:
    # Its prompts are padded on the left, and the types of their tokens on the tokenizer's side.
    tiny.processor.tokenizer.padding_side = "left"
    begin = tiny.processor.tokenizer.bos_token
    if begin and tiny.chat.prompt.startswith(begin):
        # Else its text begins without this token, and SentencePiece puts a blank there.
        tiny.processor.chat_template = f"{{{{ '{begin}' }}}}" + tiny.processor.chat_template

    def part(name: str) -> Any:
        def of_answers(completion_ids: list[list[int]], **_: Any) -> list[float]:
            return [given_reward(at, ids)[name] for at, ids in zip(trainer.shown, completion_ids, strict=True)]

        return of_answers

    trainer = GRPOTrainer(
        model=tiny.model,
        reward_funcs=[part("rank"), part("format")],
        args=grpo_arguments(settings, **options),
        train_dataset=data([{"prompt": [{"role": "user", "content": PROMPT}], "image": shown(name)} for name in NAMES]),
        processing_class=tiny.processor,
        peft_config=lora_config(tiny.model, 4),
    )
    return trainer


def _count_work(trainer: Any) -> dict[str, int]:
    counts = {"read": 0, "encoded": 0}
    inner = trainer.model.get_base_model().model

    def count_tokens(module: Any, arguments: Any, output: Any) -> None:
        counts["read"] += output.last_hidden_state.shape[:2].numel()

    def count_images(module: Any, arguments: Any, keywords: Any) -> None:
        counts["encoded"] += len(keywords.get("pixel_values", arguments[0] if arguments else None))

    inner.language_model.register_forward_hook(count_tokens)
    tower = getattr(inner, "vision_tower", None) or inner.visual
    tower.register_forward_pre_hook(count_images, with_kwargs=True)
    return counts


def _spy(trainer: Any) -> dict[tuple[int, ...], list[list[float]]]:
    """Log-probabilities of the tokens of the first step's answers, as TRL's code gets them."""
    found: dict[tuple[int, ...], list[list[float]]] = {}
    own = trainer._get_per_token_logps_and_entropies

    def watched(model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **more: Any) -> Any:
        outcome = own(model, input_ids, attention_mask, logits_to_keep, **more)
        if trainer.state.global_step == 0:
            rows = (input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:].bool(), outcome[0])
            for ids, mask, logps in zip(*rows, strict=True):
                found.setdefault(tuple(ids[mask].tolist()), []).append(logps[mask].tolist())
        return outcome

    trainer._get_per_token_logps_and_entropies = watched
    return found


def apart(ours: Trained, theirs: Trained) -> float:
    """The largest difference of a weight."""
    return max(float((ours.weights[path] - theirs.weights[path]).abs().max()) for path in theirs.weights)


def gradients_apart(ours: Trained, theirs: Trained) -> float:
    """The largest difference of a weight's gradient, in parts of its norm."""
    return max(
        float((ours.gradients[path] - of_weight).norm() / of_weight.norm())
        for path, of_weight in theirs.gradients.items()
        if float(of_weight.norm()) > 0
    )


def logps_apart(ours: Trained, theirs: Trained) -> float:
    """The largest difference of a token's log-probability, under the reference and under the policy."""
    assert ours.logps.keys() == theirs.logps.keys() and len(ours.logps) == len(NAMES) * SETTINGS.answers
    assert all(len(passes) == 2 for passes in theirs.logps.values())
    return max(
        abs(mine - stock)
        for answer, passes in theirs.logps.items()
        for one, other in zip(ours.logps[answer], passes, strict=True)
        for mine, stock in zip(one, other, strict=True)
    )
