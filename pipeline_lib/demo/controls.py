"""Test whether noise raises the demo VLM's stated score: GRPO on the score token, with right and with shuffled votes.

`python -m pipeline_lib.demo.controls --model DIR --seed 1` trains once with each kind of votes. Every few steps it
prints how the model ranks test images. Shuffled votes must not raise the SRCC of the stated score.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from scipy.stats import norm, spearmanr
from torch import Tensor

from pipeline_lib.config.base import Model
from pipeline_lib.demo.lessons import scoring_prompt
from pipeline_lib.demo.vision import Practice, draw_practice
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.generate.inputs import model_inputs
from pipeline_lib.vlm.load import Vlm, load_base
from pipeline_lib.vlm.model_ref import resolve_model

KINDS = ("right in 80 %", "shuffled")
_SAMPLES, _PAIRS, _KL, _RANK, _LEARNING_RATE = 16, 32, 0.05, 16, 1e-3


class Reading(NamedTuple):
    """How a model ranks the test images: Spearman's correlations with their quality, and how it uses the digits."""

    steps: int
    stated_srcc: float  # NaN: one digit for all images
    digits: int
    expected_srcc: float
    spread: float  # standard deviation of the expected digit over the images, in bins


def _inputs(vlm: Vlm, practice: Practice) -> dict[str, Tensor]:
    """The inputs that end where the digit is predicted; all prompts have one length."""
    chat = render_chat(vlm.processor, scoring_prompt())
    images = [[Image.fromarray(image)] for image in practice.images]
    text = f"{chat.prompt}{chat.separator}#Score: "
    return dict(model_inputs(vlm, images, [text] * len(images)))


def _digit_logits(model: torch.nn.Module, inputs: dict[str, Tensor], rows: Tensor, ids: list[int]) -> Tensor:
    logits: Tensor = model(**{name: value[rows] for name, value in inputs.items()}, logits_to_keep=1).logits
    return logits[:, -1, ids].float()


@torch.no_grad()
def read(model: torch.nn.Module, inputs: dict[str, Tensor], ids: list[int], quality: np.ndarray, steps: int) -> Reading:
    """How the model ranks the images of `inputs`."""
    model.eval()
    parts = torch.arange(len(quality)).split(100)
    probabilities = torch.cat([_digit_logits(model, inputs, rows, ids).softmax(1) for rows in parts]).numpy()
    stated, expected = probabilities.argmax(1), probabilities @ np.arange(10)
    used = len(set(stated.tolist()))
    rank = float(spearmanr(stated, quality)[0]) if used > 1 else float("nan")
    return Reading(steps, rank, used, float(spearmanr(expected, quality)[0]), float(expected.std()))


def fidelity(samples: Tensor, votes: Tensor) -> Tensor:
    """Rewards (pairs, 2, K) of sampled scores (pairs, 2, K) against votes for the first image (pairs,).

    The Thurstone probability of each sample against the mean of the other image (arXiv 2509.25787).
    """
    mean, variance = samples.mean(2), samples.var(2)
    scale = (variance.sum(1) + 1e-6).sqrt()[:, None]
    rewards = []
    for side, wanted in ((0, votes), (1, 1 - votes)):
        p = torch.from_numpy(norm.cdf(((samples[:, side] - mean[:, 1 - side, None]) / scale).numpy())).float()
        wanted = wanted[:, None]
        rewards.append((wanted * p).sqrt() + ((1 - wanted) * (1 - p)).sqrt())
    return torch.stack(rewards, 1)


def train(
    vlm: Vlm, kind: str, practice: Practice, test: Practice, *, seed: int, steps: int, every: int
) -> list[Reading]:
    """Train with one kind of votes and read the model every few steps, before the first too."""
    ids = vlm.processor.tokenizer.convert_tokens_to_ids(list("0123456789"))
    torch.manual_seed(seed)
    lora = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=r".*language_model.*_proj")
    model = get_peft_model(vlm.model, lora)
    inputs, of_test = _inputs(vlm, practice), _inputs(vlm, test)
    rng, count = np.random.default_rng([seed, 17]), len(practice.quality)
    pairs = np.array([rng.choice(count, 2, replace=False) for _ in range(steps * _PAIRS)])
    votes = (practice.quality[pairs[:, 0]] > practice.quality[pairs[:, 1]]).astype(np.float32)
    votes = np.where(rng.random(len(votes)) < 0.2, 1 - votes, votes) if kind == KINDS[0] else rng.permutation(votes)
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=_LEARNING_RATE)
    readings = [read(model, of_test, ids, test.quality, 0)]
    for step in range(steps):
        now = slice(step * _PAIRS, (step + 1) * _PAIRS)
        rows = torch.from_numpy(pairs[now].reshape(-1))
        model.train()
        log_p = _digit_logits(model, inputs, rows, ids).log_softmax(1)
        with torch.no_grad(), model.disable_adapter():
            reference = _digit_logits(model, inputs, rows, ids).log_softmax(1)
        drawn = torch.multinomial(log_p.detach().exp(), _SAMPLES, replacement=True)
        rewards = fidelity(drawn.float().view(_PAIRS, 2, _SAMPLES), torch.from_numpy(votes[now])).view(-1, _SAMPLES)
        advantage = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        kl = (log_p.exp() * (log_p - reference)).sum(1).mean()
        loss = -(advantage * log_p.gather(1, drawn)).mean() + _KL * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % every == 0:
            readings.append(read(model, of_test, ids, test.quality, step + 1))
    model.unload()
    return readings


def main() -> None:
    """Read the command line, train with each kind of votes and print the readings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--every", type=int, default=16)
    asked = parser.parse_args()
    model = str(Path(asked.model).resolve()) if asked.model != "bundled" else asked.model
    practice = draw_practice(asked.seed, 600, first=1_000_000)
    test = draw_practice(asked.seed, 300, split="test")
    for kind in KINDS:
        vlm = load_base(resolve_model(Model(id=model, dtype="float32", resize_px=96)), torch.device("cpu"))
        for reading in train(vlm, kind, practice, test, seed=asked.seed, steps=asked.steps, every=asked.every):
            print(
                f"{kind}: step {reading.steps}: stated {reading.stated_srcc:.3f} ({reading.digits} digits),"
                f" expected {reading.expected_srcc:.3f}, spread {reading.spread:.3f} bins",
                flush=True,
            )


if __name__ == "__main__":
    main()
