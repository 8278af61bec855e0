"""Teach the demo's language model its skills: rows of one image with several lessons behind it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from pipeline_lib.demo.assemble import BOS, EOS, IMAGE, IMAGE_TOKENS
from pipeline_lib.demo.corpus import NAIVE, Opinion
from pipeline_lib.demo.lessons import Known, Lesson, draw_lesson, known
from pipeline_lib.demo.progress_file import ProgressFile, Stateful
from pipeline_lib.demo.vision import Practice, Probe, as_pixel_values

ROW_TOKENS = 288
_IGNORE = -100
_GROUNDED_LAYERS = (2, 3)
_PREFIX = 0


class Stage(NamedTuple):
    """A part of the making: its name, how many rows it learns from, each skill's share of the lessons, the opinion."""

    name: str
    rows: int
    shares: Mapping[str, float]
    opinion: Opinion = NAIVE


class Row(NamedTuple):
    """One image and the lessons behind it, as the chat template renders them; the image stands in the row once.

    `ids`, `labels` (where the loss looks), `parts` (0: the image, k: lesson k) and `positions` of each token;
    `images` are the indices of the images in the order of their tokens, and `seen_at` the place behind each.
    """

    ids: list[int]
    labels: list[int]
    parts: list[int]
    positions: list[int]
    weights: list[float]
    images: list[int]
    seen_at: list[int]


def render(lesson: Lesson) -> tuple[str, str, str]:
    """The three parts of a conversation: what stands before the prompt, the prompt, and the answer."""
    image = f"{IMAGE * IMAGE_TOKENS}\n"
    return (
        f"{BOS}USER: {image}",
        f"{image if lesson.other >= 0 else ''}{lesson.prompt} ASSISTANT:",
        f" {lesson.answer}{EOS}",
    )


class RowWriter:
    """Packs lessons about the practice images into rows of at most `ROW_TOKENS` tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, digit_weight: float):
        self.tokenizer, self.digit_weight = tokenizer, digit_weight
        self.newline = self._ids("\n")
        self.prefix = self._ids(f"{BOS}USER: {IMAGE * IMAGE_TOKENS}") + self.newline
        self.image_id = tokenizer.convert_tokens_to_ids(IMAGE)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _lesson(self, lesson: Lesson) -> tuple[list[int], list[int], list[float]]:
        """Token ids behind the first image, labels and weights."""
        _, prompt, reply = render(lesson)
        before, after = self._ids(prompt), self._ids(reply)
        labels = [_IGNORE] * len(before) + list(after)
        weights = [1.0] * len(labels)
        if lesson.skill == "score":
            digit = self.tokenizer.convert_tokens_to_ids(lesson.answer[len("#Score: ")])
            at = len(before) + after.index(digit)
            weights[at] = self.digit_weight
            if lesson.masked:
                labels[at] = _IGNORE
        elif lesson.skill in ("compare", "answer", "judge"):  # short answers would drown in the words of the others
            weights[len(before) : -1] = [2.0] * (len(after) - 1)
        return before + after, labels, weights

    def row(self, rows: list[Known], index: int, shares: Mapping[str, float], rng: np.random.Generator) -> Row:
        """Draw lessons about one image until the next one finds no room."""
        ids, labels = list(self.prefix), [_IGNORE] * len(self.prefix)
        weights = [1.0] * len(ids)
        parts, positions = [_PREFIX] * len(ids), list(range(len(ids)))
        images, seen_at, number = [index], [len(ids) - 1], 1
        while True:
            lesson = draw_lesson(rows, index, shares, rng)
            new_ids, new_labels, new_weights = self._lesson(lesson)
            if len(ids) + len(new_ids) > ROW_TOKENS:
                return Row(ids, labels, parts, positions, weights, images, seen_at)
            if lesson.other >= 0:
                images.append(lesson.other)
                seen_at.append(len(ids) + IMAGE_TOKENS)
            ids += new_ids
            labels += new_labels
            weights += new_weights
            parts += [number] * len(new_ids)
            positions += range(len(self.prefix), len(self.prefix) + len(new_ids))
            number += 1


@torch.no_grad()
def encode_images(model: LlavaForConditionalGeneration, images: NDArray[np.uint8]) -> torch.Tensor:
    """What the frozen tower hands to the projector for n images: (n, 36, vision width), in half precision."""
    tower = model.model.vision_tower
    # The hidden state before the tower's final norm: the one that LlavaModel itself takes.
    parts = np.array_split(images, max(1, len(images) // 256))
    return torch.cat(
        [tower(as_pixel_values(part), output_hidden_states=True).hidden_states[-1].half() for part in parts]
    )


def _collate(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(row.ids) for row in rows)

    def padded(lists: list[Any], value: float) -> torch.Tensor:
        return torch.tensor([line + [value] * (width - len(line)) for line in lists])

    parts = padded([row.parts for row in rows], 10_000)
    own = (parts[:, :, None] == parts[:, None, :]) | (parts[:, None, :] == _PREFIX)
    return {
        "ids": padded([row.ids for row in rows], pad),
        "labels": padded([row.labels for row in rows], _IGNORE),
        "weights": padded([row.weights for row in rows], 0.0),
        "positions": padded([row.positions for row in rows], 0),
        "visible": (own & torch.ones(width, width, dtype=torch.bool).tril())[:, None],
        "images": torch.tensor([image for row in rows for image in row.images]),
        "seen_row": torch.tensor([number for number, row in enumerate(rows) for _ in row.seen_at]),
        "seen_at": torch.tensor([at for row in rows for at in row.seen_at]),
    }


def train_language(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    practice: Practice,
    stages: Sequence[Stage],
    *,
    seed: int,
    batch: int = 16,
    learning_rate: float = 2e-3,
    grounding: float = 1.0,
    digit_weight: float = 3.0,
    progress: ProgressFile | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Instruction tuning of projector and language model over cached image features; returns the last mean losses.

    `grounding` weighs a regression of what each image shows, from the middle layers at the token behind the image.
    Without it the language model hardly takes over what the tower sees, and LoRA cannot learn scores later. It is far
    from the place where a score is predicted: a training has to learn the way from there.
    """
    features, targets = encode_images(model, practice.images), torch.from_numpy(practice.targets)
    classes = torch.from_numpy(practice.classes)
    torch.manual_seed(seed)
    projector, decoder = model.model.multi_modal_projector, model.model.language_model
    probe_of = {layer: Probe(decoder.config.hidden_size) for layer in _GROUNDED_LAYERS}
    probes = nn.ModuleList(probe_of.values())
    parameters = [*projector.parameters(), *decoder.parameters(), *model.lm_head.parameters(), *probes.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    plan = [stage for stage in stages for _ in range(stage.rows // batch)]
    # Full rate through the early stages: a skill that comes late is not learnt at the end of a decay.
    warm, decay = max(1, len(plan) // 25), max(1, len(plan) // 4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm, max(0.01, (len(plan) - step) / decay))
    )
    writer = RowWriter(tokenizer, digit_weight)
    progress = progress or ProgressFile(None, "")
    learners: dict[str, Stateful] = {
        "projector": projector, "decoder": decoder, "head": model.lm_head, "probes": probes,
        "optimizer": optimizer, "schedule": schedule,
    }  # fmt: skip
    done, means = progress.restore(learners)
    began, means = time.monotonic(), means or {"text": 0.0, "grounding": 0.0}
    model.train()
    per_pass = len(targets) // batch
    for step in range(done, len(plan)):
        stage, start = plan[step], step // per_pass * per_pass
        # New opinions and a new order in each pass.
        if step in (done, start) or plan[step - 1] is not stage:
            order = np.random.default_rng([seed, 6, start]).permutation(len(targets))
            rows = known(practice, np.random.default_rng([seed, 7, start]), stage.opinion)
        rng = np.random.default_rng([seed, 5, step])
        at = step % per_pass * batch
        packed = [writer.row(rows, int(index), stage.shares, rng) for index in order[at : at + batch]]
        b = _collate(packed, tokenizer.pad_token_id)
        embeds = decoder.embed_tokens(b["ids"]).clone()
        embeds[b["ids"] == writer.image_id] = projector(features[b["images"]].float()).flatten(0, 1)
        hidden = decoder(
            inputs_embeds=embeds,
            attention_mask=b["visible"],
            position_ids=b["positions"],
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        looked, goals = b["labels"][:, 1:] != _IGNORE, b["labels"][:, 1:]
        nats = nn.functional.cross_entropy(model.lm_head(hidden[-1][:, :-1][looked]), goals[looked], reduction="none")
        weight = b["weights"][:, 1:][looked]
        seen = {layer: hidden[layer][b["seen_row"], b["seen_at"]][:, None] for layer in probe_of}
        goal, words = targets[b["images"]], classes[b["images"]]
        ground = torch.stack([probe.loss(seen[layer], goal, words) for layer, probe in probe_of.items()]).mean()
        text = (nats * weight).sum() / weight.sum()
        optimizer.zero_grad()
        (text + grounding * ground).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        rate = max(0.02, 1 / (step + 1))
        new = {"text": text, "grounding": ground}
        means = {name: means[name] + rate * (float(new[name].detach()) - means[name]) for name in means}
        if (step + 1) % 25 == 0 or step + 1 == len(plan):
            figures = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            say(f"language: step {step + 1}/{len(plan)} {stage.name} {time.monotonic() - began:.0f} s: {figures}")
        progress.keep(step + 1, len(plan), learners, means)
    model.eval()
    return means
