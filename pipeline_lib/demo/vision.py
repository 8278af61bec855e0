"""Train the demo's vision tower to see the faults: a regression of their severities from the image alone."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from pipeline_lib.demo.dataset import SIDE_PX, SPLITS, draw_image
from pipeline_lib.demo.distortions import ATTRIBUTES, Severity
from pipeline_lib.demo.progress_file import ProgressFile, Stateful
from pipeline_lib.demo.raters import quality_points
from pipeline_lib.demo.scenes import COLOURS, KINDS, PLACES, Subject

PATCH_PX = 16
_PRACTICE = 1009
"""Separates the practice images' random streams from those of any data set."""
TARGETS = (*ATTRIBUTES, "badness of light", "quality")
SUBJECT_WORDS = (("photograph", *KINDS), COLOURS, PLACES)
"""What a probe has to tell apart: kinds of subject, colours, places."""
_SUBJECT_WEIGHT = 0.15
_POSITION_SD = 0.15
_IGNORE = -100


class Practice(NamedTuple):
    """Images to learn from.

    - `images` (n, side, side, 3) uint8
    - `targets` (n, 9), standardised over these images: `TARGETS`
    - `classes` (n, 3): indices into the three lines of `SUBJECT_WORDS`, -100 where a photograph has none
    - `quality` (n,) in points, `severity` (n, 7), `subjects`: what is known of each image
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.float32]
    classes: NDArray[np.int64]
    quality: NDArray[np.float32]
    severity: NDArray[np.float32]
    subjects: list[Subject | None]


def _classes(subject: Subject | None) -> tuple[int, int, int]:
    if subject is None:
        return 0, _IGNORE, _IGNORE
    return 1 + KINDS.index(subject.kind), COLOURS.index(subject.colour), PLACES.index(subject.place)


def _practice_image(key: tuple[int, int, str]) -> tuple[NDArray[np.uint8], Severity, Subject | None]:
    seed, index, split = key
    stream = [seed, _PRACTICE, index] if split == "train" else [seed, _PRACTICE, index, SPLITS.index(split)]
    drawn = draw_image(np.random.default_rng(stream), split, f"practice-{index}")
    return (drawn.pixels * 255).round().astype(np.uint8), drawn.severity, drawn.subject


def draw_practice(seed: int, count: int, first: int = 0, split: str = "train") -> Practice:
    """Draw the practice images `first` to `first + count`, deterministic in `seed`, on two processes.

    The base VLM is trained on those of `train` alone: the photographs of the other splits stay unseen by it.
    """
    with ProcessPoolExecutor(2) as pool:
        keys = [(seed, index, split) for index in range(first, first + count)]
        drawn = list(pool.map(_practice_image, keys, chunksize=100))
    severity = np.array([row[1] for row in drawn], np.float32)
    quality = np.array([quality_points(row[1]) for row in drawn], np.float32)
    light = np.abs(severity[:, ATTRIBUTES.index("exposure")])
    targets = np.concatenate([severity, light[:, None], quality[:, None]], axis=1)
    targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    subjects = [row[2] for row in drawn]
    classes = np.array([_classes(subject) for subject in subjects])
    return Practice(np.stack([row[0] for row in drawn]), targets, classes, quality, severity, subjects)


class Probe(nn.Module):
    """Reads from hidden states of one width what an image shows: the targets, and the three words of its subject.

    The targets come from the mean over the tokens. The words come from a weighted mean, whose weights it learns.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.search = nn.LayerNorm(width), nn.Linear(width, 1)
        self.values = nn.Linear(width, len(TARGETS))
        self.words = nn.ModuleList(nn.Linear(width, len(words)) for words in SUBJECT_WORDS)

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """(n, tokens, width) to (n, 9) and three times (n, words)."""
        normed = self.norm(hidden)
        found = (self.search(normed).softmax(dim=1) * normed).sum(dim=1)
        return [self.values(normed.mean(dim=1)), *(head(found) for head in self.words)]

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """The mean error over (n, 9) targets and (n, 3) classes."""
        values, *words = self(hidden)
        loss = nn.functional.smooth_l1_loss(values, targets)
        for logits, truth in zip(words, classes.T, strict=True):
            nats = nn.functional.cross_entropy(logits, truth, ignore_index=_IGNORE, reduction="sum")
            loss = loss + _SUBJECT_WEIGHT * nats / len(classes)
        return loss


def as_pixel_values(images: NDArray[np.uint8]) -> torch.Tensor:
    """What the image processor makes of n images: (n, 3, side, side), -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def vision_config() -> SiglipVisionConfig:
    """A SigLIP tower of 36 tokens, without the pooling head that LLaVA never uses."""
    return SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=SIDE_PX,
        patch_size=PATCH_PX,
        vision_use_head=False,
    )


@torch.no_grad()
def whiten_patch_embedding(tower: SiglipVisionModel, pixel_values: torch.Tensor) -> None:
    """Start the patch embedding as whitened principal components of real patches.

    Fine noise and block edges live in components of small variance. Random filters bury them below the large,
    smooth ones, and the tower then never learns to see them; whitening gives every component the same voice.
    """
    embedding = tower.get_submodule("embeddings.patch_embedding")
    assert isinstance(embedding, nn.Conv2d) and embedding.bias is not None
    patches = nn.functional.unfold(pixel_values, PATCH_PX, stride=PATCH_PX).transpose(1, 2).flatten(0, 1).double()
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    count = embedding.out_channels
    scale = 1 / torch.sqrt(values[-count:] + 1e-5)
    weight = (vectors[:, -count:] * scale).T
    embedding.weight.copy_(weight.reshape(embedding.weight.shape).float())
    embedding.bias.copy_(-(weight @ mean).float())
    # Beside whitened components the usual small positions are not seen, and the tower does not learn where a thing is.
    tower.get_submodule("embeddings.position_embedding").weight.normal_(0, _POSITION_SD)


def train_vision(
    tower: SiglipVisionModel,
    practice: Practice,
    *,
    passes: int,
    seed: int,
    batch: int = 64,
    learning_rate: float = 1e-3,
    progress: ProgressFile | None = None,
    say: Callable[[str], None] = print,
) -> float:
    """Fit the tower to what is known of the images and return the held-out mean correlation over the faults.

    The probe reads the mean of the last hidden state *before* the final norm: what LLaVA projects.
    """
    held_out = len(practice.images) // 20
    pixel_values, targets = as_pixel_values(practice.images), torch.from_numpy(practice.targets)
    torch.manual_seed(seed)
    classes = torch.from_numpy(practice.classes)
    probe = Probe(tower.config.hidden_size)
    whiten_patch_embedding(tower, pixel_values[held_out : held_out + 1500])
    parameters = [*tower.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
    steps = passes * ((len(targets) - held_out) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    progress = progress or ProgressFile(None, "")
    parts: dict[str, Stateful] = {"tower": tower, "probe": probe, "optimizer": optimizer, "schedule": schedule}
    done, notes = progress.restore(parts)
    began, correlation = time.monotonic(), float(notes.get("correlation", 0.0))

    def look(pixels: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = tower(pixels, output_hidden_states=True).hidden_states[-1]
        return hidden

    for number in range(done, passes):
        tower.train()
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        order = held_out + torch.randperm(len(targets) - held_out, generator=generator)
        for rows in order[: len(order) // batch * batch].split(batch):
            loss = probe.loss(look(pixel_values[rows]), targets[rows], classes[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
        tower.eval()
        with torch.no_grad():
            seen = [probe(look(part)) for part in pixel_values[:held_out].split(128)]
        guess, *words = (torch.cat(part) for part in zip(*seen, strict=True))
        each = [float(np.corrcoef(guess[:, k], targets[:held_out, k])[0, 1]) for k in range(len(TARGETS))]
        correlation = float(np.mean(each[: len(ATTRIBUTES)]))
        figures = " ".join(f"{name} {value:.2f}" for name, value in zip(TARGETS, each, strict=True))
        for name, logits, truth in zip(("kind", "colour", "place"), words, classes[:held_out].T, strict=True):
            known = truth != _IGNORE
            figures += f" {name} {(logits.argmax(1)[known] == truth[known]).float().mean():.2f}"
        say(f"vision pass {number + 1}/{passes} {time.monotonic() - began:.0f} s: {figures}")
        progress.keep(number + 1, passes, parts, {"correlation": correlation})
    return correlation
