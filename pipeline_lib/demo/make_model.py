"""Make the demo's base VLM from nothing: `python -m pipeline_lib.demo.make_model --out DIR --seed 0`.

It keeps its progress in `--work`. After a kill the same command continues. At the end it removes that folder.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast, SiglipVisionModel

from pipeline_lib.config.base import Model
from pipeline_lib.demo.assemble import IMAGE, build_model, build_processor, train_tokenizer
from pipeline_lib.demo.card import write_card
from pipeline_lib.demo.corpus import Opinion
from pipeline_lib.demo.dataset import SIDE_PX
from pipeline_lib.demo.instruct import Stage, render, train_language
from pipeline_lib.demo.lessons import draw_lesson, known
from pipeline_lib.demo.progress_file import ProgressFile
from pipeline_lib.demo.skills import measure_skills
from pipeline_lib.demo.vision import Practice, draw_practice, train_vision, vision_config
from pipeline_lib.errors import ModelError, WhyScoreError
from pipeline_lib.vlm.load import load_base
from pipeline_lib.vlm.model_ref import resolve_model

LOOK = {
    "score": 0.17, "given_score": 0.15, "describe": 0.07, "describe_in_detail": 0.07, "rate": 0.08, "compare": 0.18,
    "answer": 0.24, "answer_infused": 0.04,
}  # fmt: skip
WRITE = LOOK | {"invent": 0.08, "inject": 0.22}
JUDGE = WRITE | {"judge": 0.85}
"""Weights of the skills among the lessons of the three stages; later stages repeat the earlier skills."""
FINISH = JUDGE | {"score": 0.4}
FINISH_OPINION = Opinion(taste=0.7, blur=5.5)
FINISH_ROWS = 4_800
ROWS = (16_000, 8_000, 20_000)
_TOKENIZER_LESSONS = 12_000
_ACCEPTANCE = 1000
"""Added to the seed, so that the skills are measured on images that nothing was tuned on."""


def _tokenizer(practice: Practice, seed: int) -> PreTrainedTokenizerFast:
    rng = np.random.default_rng([seed, 3])
    rows, texts = known(practice, rng), []
    for _ in range(_TOKENIZER_LESSONS):
        _, prompt, answer = render(draw_lesson(rows, int(rng.integers(len(rows))), JUDGE, rng))
        texts += [prompt.replace(IMAGE, ""), answer.removesuffix("</s>")]
    return train_tokenizer(texts)


def _save(folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    model.generation_config.do_sample = False
    model.half().save_pretrained(folder)
    # transformers writes a new model's tower under names of its own; servers know those of the hub's checkpoints.
    weights = folder / "model.safetensors"
    prefix, hub_prefix = "vision_tower.", "vision_tower.vision_model."
    renamed = {
        hub_prefix + name.removeprefix(hub_prefix).removeprefix(prefix) if name.startswith(prefix) else name: x
        for name, x in load_file(weights).items()
    }
    save_file(renamed, weights, metadata={"format": "pt"})
    processor.save_pretrained(folder)
    weights.chmod(0o644)  # written for its owner alone, like any temporary file


def make_model(
    out: Path, work: Path, seed: int, images: int, passes: int, rows: tuple[int, int, int], test: int
) -> None:
    """Train the base VLM and put it at `out` (replaced as a whole), its figures in the model card.

    `images` is the number for the tower, and again for the language; `rows` what the language learns from in each of
    its three stages; `test` the number of images on which the skills are measured. Raises `ModelError` when `out`
    holds something else, or `work` the progress of other settings.
    """
    if out.exists() and not (out / "config.json").is_file():
        raise ModelError(f"{out} exists and is no model; remove it or choose another --out")
    settings = {"seed": seed, "images": images, "passes": passes, "rows": list(rows)}
    _claim(work, settings)
    began, clock = time.monotonic(), _CpuClock(work)
    figures: dict[str, float] = {}

    def say(line: str) -> None:
        print(f"{line} ({clock.keep() / 60:.1f} CPU-minutes)", flush=True)

    torch.manual_seed(seed)
    tower = SiglipVisionModel(vision_config())
    figures["vision: correlation over the faults"] = train_vision(
        tower, draw_practice(seed, images), passes=passes, seed=seed, progress=ProgressFile(work, "vision"), say=say
    )
    # Not the tower's own images: on those its features are better than on any later image.
    practice = draw_practice(seed, images, first=images)
    tokenizer = _tokenizer(practice, seed)
    torch.manual_seed(seed)
    model = build_model(tokenizer)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    facts = {"parameters": sum(parameter.numel() for parameter in model.parameters()), "tokens": len(tokenizer)}
    say(f"{facts['parameters']} parameters, {facts['tokens']} tokens")
    stages = [Stage(*of) for of in zip(("look", "write", "judge"), rows, (LOOK, WRITE, JUDGE), strict=True)]
    progress = ProgressFile(work, "language", every=100)
    losses = train_language(model, tokenizer, practice, stages, seed=seed, progress=progress, say=say)
    figures |= {f"loss: {name}": value for name, value in losses.items()}
    finish(model, tokenizer, practice, seed, ProgressFile(work, "finish", every=100), say)

    out.parent.mkdir(parents=True, exist_ok=True)
    attempt = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    attempt.chmod(0o755)
    _save(attempt, model, build_processor(tokenizer))
    say("measuring the skills on images of the test split's photographs and on new scenes")
    vlm = load_base(
        resolve_model(Model(id=str(attempt.resolve()), dtype="float32", resize_px=SIDE_PX)), torch.device("cpu")
    )
    figures |= measure_skills(vlm, draw_practice(seed + _ACCEPTANCE, test, split="test"), seed)
    write_card(
        attempt, settings | facts | {"finish_rows": FINISH_ROWS, "test": test, "minutes": clock.keep() / 60}, figures
    )
    if out.exists():
        shutil.rmtree(out)
    attempt.replace(out)
    say(f"wrote {out} in {(time.monotonic() - began) / 60:.0f} minutes")
    shutil.rmtree(work)


def finish(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    practice: Practice,
    seed: int,
    progress: ProgressFile,
    say: Callable[[str], None],
) -> None:
    """A last, short stage from the weights in half precision: the opinion comes nearer to what blur alone says."""
    model.half().float()
    stages = [Stage("finish", FINISH_ROWS, FINISH, FINISH_OPINION)]
    train_language(
        model, tokenizer, practice, stages, seed=seed + 1, learning_rate=5e-4, grounding=0.0, progress=progress, say=say
    )


class _CpuClock:
    """CPU seconds of a making, those of earlier attempts in the same folder included."""

    def __init__(self, work: Path):
        self.path = work / "cpu_seconds.json"
        self.before = float(json.loads(self.path.read_text())) if self.path.is_file() else 0.0

    def keep(self) -> float:
        """Write and return the seconds until now."""
        seconds = self.before + sum(os.times()[:4])
        self.path.write_text(json.dumps(seconds))
        return seconds


def _claim(work: Path, settings: dict[str, object]) -> None:
    mark, wanted = work / "settings.json", json.dumps(settings)
    if not mark.is_file():
        work.mkdir(parents=True, exist_ok=True)
        mark.write_text(wanted)
    elif mark.read_text() != wanted:
        raise ModelError(
            f"{work} holds the progress of {mark.read_text()}, asked was {wanted}; remove it or choose another --work"
        )


def main() -> None:
    """Read the command line and make the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("whyscore-data/demo-model"), help="keeps progress")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=16_000, help="for the tower, and as many again for the language")
    parser.add_argument("--passes", type=int, default=8, help="of the tower over its images")
    parser.add_argument("--rows", type=int, nargs=3, default=ROWS, help="of lessons in each of the three stages")
    parser.add_argument("--test", type=int, default=400, help="images on which the skills are measured")
    asked = parser.parse_args()
    try:
        make_model(asked.out, asked.work, asked.seed, asked.images, asked.passes, tuple(asked.rows), asked.test)
    except WhyScoreError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
