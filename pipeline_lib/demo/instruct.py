"""Teach the demo's language model to look, to describe, and to justify whatever score it is given."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from pipeline_lib.demo.assemble import BOS, DESCRIBE_PROMPT, EOS, IMAGE, IMAGE_TOKENS, scoring_prompt
from pipeline_lib.demo.corpus import MIXTURE, Mixture, describe, explain, naive_scores
from pipeline_lib.demo.distortions import Severity
from pipeline_lib.demo.vision import TARGETS, Practice, as_pixel_values

_DESCRIBE_SHARE, _GIVEN_SCORE_SHARE = 0.15, 0.4
_IGNORE = -100
_GROUNDED_LAYERS = (2, 3)


class Lesson(NamedTuple):
    """One training text: ids, where the loss looks (labels), and the position that predicts the digit, -1 if none."""

    ids: list[int]
    labels: list[int]
    digit_at: int


def render(prompt: str, answer: str) -> tuple[str, str]:
    """The two halves of a conversation exactly as the chat template renders them, the image token repeated."""
    return f"{BOS}USER: {IMAGE * IMAGE_TOKENS}\n{prompt} ASSISTANT:", f" {answer}{EOS}"


def _lesson(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, hide_score: bool) -> Lesson:
    question, reply = render(prompt, answer)
    before = tokenizer(question, add_special_tokens=False)["input_ids"]
    after = tokenizer(reply, add_special_tokens=False)["input_ids"]
    labels = [_IGNORE] * len(before) + list(after)
    digit_at = -1
    if answer.startswith("#Score: "):
        score = tokenizer.convert_tokens_to_ids(answer[len("#Score: ")])
        digit_at = len(before) + after.index(score) - 1
        if hide_score:
            labels[digit_at + 1] = _IGNORE
    return Lesson([*before, *after], labels, digit_at)


def write_lessons(
    tokenizer: PreTrainedTokenizerFast, practice: Practice, rng: np.random.Generator, mixture: Mixture
) -> list[Lesson]:
    """One lesson a picture: a description, or an explanation of a given score, or a naive score with its explanation.

    A given score is hidden from the loss: the model learns to justify any score, not that scores are random.
    """
    quality = np.argsort(np.argsort(practice.quality)) / len(practice.quality) * 10 - 0.5
    naive = naive_scores(practice.severity, rng)
    prompt, lessons = scoring_prompt(), []
    for index, row in enumerate(practice.severity):
        severity = Severity(*(float(value) for value in row))
        lot = float(rng.random())
        if lot < _DESCRIBE_SHARE:
            lessons.append(_lesson(tokenizer, DESCRIBE_PROMPT, describe(severity, rng), False))
            continue
        given = lot < _DESCRIBE_SHARE + _GIVEN_SCORE_SHARE
        score = int(rng.integers(10)) if given else int(naive[index])
        text = explain(severity, float(quality[index]), score, rng, mixture)
        lessons.append(_lesson(tokenizer, prompt, f"#Score: {score}\n\n#Explain: {text}", given))
    return lessons


@torch.no_grad()
def encode_images(model: LlavaForConditionalGeneration, images: NDArray[np.uint8]) -> torch.Tensor:
    """What the frozen tower hands to the projector for n images: (n, 36, vision width)."""
    tower = model.model.vision_tower
    parts = as_pixel_values(images).split(128)
    # The hidden state before the tower's final norm: the one that LlavaModel itself takes.
    return torch.cat([tower(part, output_hidden_states=True).hidden_states[-1] for part in parts])


def _collate(lessons: list[Lesson], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(lesson.ids) for lesson in lessons)
    ids = torch.tensor([lesson.ids + [pad] * (width - len(lesson.ids)) for lesson in lessons])
    labels = torch.tensor([lesson.labels + [_IGNORE] * (width - len(lesson.labels)) for lesson in lessons])
    return ids, labels, torch.tensor([lesson.digit_at for lesson in lessons])


def train_language(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    practice: Practice,
    *,
    passes: int,
    seed: int,
    mixture: Mixture = MIXTURE,
    batch: int = 32,
    learning_rate: float = 3e-3,
    grounding: float = 1.0,
    digit_weight: float = 3.0,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Instruction tuning of projector and language model over cached image features; returns the last mean losses.

    `grounding` weighs a regression of the faults from the middle layers at the place where the digit is predicted.
    Without it the language model never carries there what the tower sees, and LoRA cannot learn scores later.
    """
    features, targets = encode_images(model, practice.images), torch.from_numpy(practice.targets)
    torch.manual_seed(seed)
    projector, decoder = model.model.multi_modal_projector, model.model.language_model
    width = decoder.config.hidden_size
    probes = nn.ModuleList(nn.Linear(width, len(TARGETS)) for _ in _GROUNDED_LAYERS)
    parameters = [*projector.parameters(), *decoder.parameters(), *model.lm_head.parameters(), *probes.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    steps = passes * (len(targets) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.08)
    rng, generator = np.random.default_rng([seed, 5]), torch.Generator().manual_seed(seed)
    began, step, means = time.monotonic(), 0, {"text": 0.0, "digit": 0.0, "grounding": 0.0}
    model.train()
    for _ in range(passes):
        lessons = write_lessons(tokenizer, practice, rng, mixture)  # new wording and new given scores every pass
        order = torch.randperm(len(lessons), generator=generator)
        for rows in order[: len(order) // batch * batch].split(batch):
            ids, labels, digit_at = _collate([lessons[row] for row in rows.tolist()], tokenizer.pad_token_id)
            embeds = decoder.embed_tokens(ids).clone()
            embeds[ids == model.config.image_token_index] = projector(features[rows]).flatten(0, 1)
            hidden = decoder(inputs_embeds=embeds, output_hidden_states=True, use_cache=False).hidden_states
            at, goals = labels[:, 1:] != _IGNORE, labels[:, 1:]
            nats = nn.functional.cross_entropy(model.lm_head(hidden[-1][:, :-1][at]), goals[at], reduction="none")
            place = torch.arange(goals.shape[1]).expand_as(goals) == digit_at[:, None]
            is_digit = place[at]
            weight = torch.where(is_digit, digit_weight, 1.0)
            scored = (digit_at >= 0).nonzero()[:, 0]
            seen = [hidden[layer][scored, digit_at[scored]] for layer in _GROUNDED_LAYERS]
            goal = targets[rows][scored]
            parts = [nn.functional.smooth_l1_loss(probe(x), goal) for probe, x in zip(probes, seen, strict=True)]
            ground = torch.stack(parts).mean()
            loss = (nats * weight).sum() / weight.sum() + grounding * ground
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            new = {"text": nats[~is_digit].mean(), "digit": nats[is_digit].mean(), "grounding": ground}
            rate = max(0.02, 1 / step)
            means = {name: means[name] + rate * (float(new[name].detach()) - means[name]) for name in means}
            if step % 50 == 0 or step == steps:
                figures = " ".join(f"{name} {value:.3f}" for name, value in means.items())
                say(f"language step {step}/{steps} {time.monotonic() - began:.0f} s: {figures}")
    model.eval()
    return means
