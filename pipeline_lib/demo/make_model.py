"""Make the demo's base VLM from nothing: `python -m pipeline_lib.demo.make_model --out DIR --seed 0`."""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from pipeline_lib.demo.assemble import DESCRIBE_PROMPT, build_model, build_processor, scoring_prompt, train_tokenizer
from pipeline_lib.demo.card import write_card
from pipeline_lib.demo.corpus import describe, explain
from pipeline_lib.demo.distortions import draw_severity
from pipeline_lib.demo.instruct import train_language
from pipeline_lib.demo.vision import draw_practice, train_vision


def _tokenizer(seed: int) -> PreTrainedTokenizerFast:
    rng = np.random.default_rng([seed, 3])
    texts = [f"USER: \n{scoring_prompt()} ASSISTANT:", f"USER: \n{DESCRIBE_PROMPT} ASSISTANT:"] * 200
    for _ in range(3000):
        severity = draw_severity(rng)
        score = int(rng.integers(10))
        text = explain(severity, float(rng.uniform(0, 9)), score, rng)
        texts += [f" #Score: {score}\n\n#Explain: {text}", f" {describe(severity, rng)}"]
    return train_tokenizer(texts)


def _say(line: str) -> None:
    print(line, flush=True)


def _save(folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    model.generation_config.do_sample = False
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for its owner alone, like any temporary file


def make_model(out: Path, seed: int, pictures: int, vision_passes: int, language_passes: int) -> None:
    """Train the base VLM and put it at `out` (replaced as a whole), its figures in the model card."""
    if out.exists() and not (out / "config.json").is_file():
        raise FileExistsError(f"{out} exists and is no model; remove it or choose another --out")
    began, torch_threads = time.monotonic(), torch.get_num_threads()
    figures: dict[str, float] = {"seed": seed, "pictures": 2 * pictures, "threads": torch_threads}
    torch.manual_seed(seed)
    tokenizer = _tokenizer(seed)
    model = build_model(tokenizer)
    figures["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    _say(f"{figures['parameters']:.0f} parameters, {len(tokenizer)} tokens; drawing pictures")

    tower = model.model.vision_tower
    figures["vision_correlation"] = train_vision(
        tower, draw_practice(seed, pictures), passes=vision_passes, seed=seed, say=_say
    )
    figures["vision_seconds"] = time.monotonic() - began

    # Other pictures than the tower's: on its own it is surer of what it sees than it will ever be again.
    practice = draw_practice(seed, pictures, first=pictures)
    losses = train_language(model, tokenizer, practice, passes=language_passes, seed=seed, say=_say)
    figures |= {f"{name}_loss_nats" if name != "grounding" else "grounding_loss": x for name, x in losses.items()}
    figures["seconds"] = time.monotonic() - began
    figures["cpu_seconds"] = sum(os.times()[:4])

    out.parent.mkdir(parents=True, exist_ok=True)
    attempt = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    attempt.chmod(0o755)
    _save(attempt, model, build_processor(tokenizer))
    write_card(attempt, figures)
    if out.exists():
        shutil.rmtree(out)
    attempt.replace(out)
    _say(f"wrote {out} in {figures['seconds']:.0f} s")


def main() -> None:
    """Read the command line and make the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=8000, help="for the tower, and as many again for the language")
    parser.add_argument("--vision-passes", type=int, default=6)
    parser.add_argument("--language-passes", type=int, default=3)
    asked = parser.parse_args()
    make_model(asked.out, asked.seed, asked.pictures, asked.vision_passes, asked.language_passes)


if __name__ == "__main__":
    main()
