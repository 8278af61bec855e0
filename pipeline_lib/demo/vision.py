"""Train the demo's vision tower to see the faults: a regression of their severities from the picture alone."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from pipeline_lib.demo.dataset import SIDE_PX, draw_picture
from pipeline_lib.demo.distortions import ATTRIBUTES
from pipeline_lib.demo.raters import quality_points

PATCH_PX = 16
_PRACTICE = 1009
"""Separates the practice pictures' random streams from those of any data set."""
TARGETS = (*ATTRIBUTES, "badness of light", "quality")


class Practice(NamedTuple):
    """Pictures to learn from: images (n, side, side, 3) uint8 and targets (n, 9), standardised by `mean` and `sd`."""

    images: NDArray[np.uint8]
    targets: NDArray[np.float32]
    quality: NDArray[np.float32]
    severity: NDArray[np.float32]


def _practice_picture(key: tuple[int, int]) -> tuple[NDArray[np.uint8], tuple[float, ...], float]:
    # The training photographs only: those of validation and test stay unseen by the base VLM too.
    picture = draw_picture(np.random.default_rng([key[0], _PRACTICE, key[1]]), "train", f"practice-{key[1]}")
    return (picture.pixels * 255).round().astype(np.uint8), tuple(picture.severity), quality_points(picture.severity)


def draw_practice(seed: int, count: int, first: int = 0) -> Practice:
    """Draw the practice pictures `first` to `first + count`, deterministic in `seed`, on two processes."""
    with ProcessPoolExecutor(2) as pool:
        keys = [(seed, index) for index in range(first, first + count)]
        drawn = list(pool.map(_practice_picture, keys, chunksize=200))
    severity = np.array([row[1] for row in drawn], np.float32)
    quality = np.array([row[2] for row in drawn], np.float32)
    light = np.abs(severity[:, ATTRIBUTES.index("exposure")])
    targets = np.concatenate([severity, light[:, None], quality[:, None]], axis=1)
    targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    return Practice(np.stack([row[0] for row in drawn]), targets, quality, severity)


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


def train_vision(
    tower: SiglipVisionModel,
    practice: Practice,
    *,
    passes: int,
    seed: int,
    batch: int = 64,
    learning_rate: float = 1e-3,
    say: Callable[[str], None] = print,
) -> float:
    """Fit the tower to the standardised targets and return the held-out mean correlation over the faults.

    The probe reads the mean of the last hidden state *before* the final norm: what LLaVA projects.
    """
    held_out = len(practice.images) // 20
    pixel_values, targets = as_pixel_values(practice.images), torch.from_numpy(practice.targets)
    torch.manual_seed(seed)
    probe = nn.Sequential(nn.LayerNorm(tower.config.hidden_size), nn.Linear(tower.config.hidden_size, len(TARGETS)))
    whiten_patch_embedding(tower, pixel_values[held_out : held_out + 1500])
    parameters = [*tower.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
    steps = passes * ((len(targets) - held_out) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    began, correlation = time.monotonic(), 0.0

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = tower(pixels, output_hidden_states=True).hidden_states[-1]
        out: torch.Tensor = probe(hidden.mean(dim=1))
        return out

    for number in range(passes):
        tower.train()
        order = held_out + torch.randperm(len(targets) - held_out, generator=generator)
        for rows in order[: len(order) // batch * batch].split(batch):
            pixels = pixel_values[rows]
            if torch.rand((), generator=generator) < 0.5:
                pixels = pixels.flip(3)
            loss = nn.functional.smooth_l1_loss(predict(pixels), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
        tower.eval()
        with torch.no_grad():
            guess = torch.cat([predict(part) for part in pixel_values[:held_out].split(128)])
        each = [float(np.corrcoef(guess[:, k], targets[:held_out, k])[0, 1]) for k in range(len(TARGETS))]
        correlation = float(np.mean(each[: len(ATTRIBUTES)]))
        figures = " ".join(f"{name} {value:.2f}" for name, value in zip(TARGETS, each, strict=True))
        say(f"vision pass {number + 1}/{passes} {time.monotonic() - began:.0f} s: {figures}")
    return correlation
