"""Ask a model of evo_quality that WhyScore has exported.

`whyscore predict --export` copies this module and those that it imports to the exported folder, so that the README's
code prepares images, samples and reads ratings as `whyscore predict` does.
"""

import hashlib
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from pipeline_lib.methods.evo_quality.answers import read_rating
from pipeline_lib.use.exported_base import ExportedBase
from pipeline_lib.vlm.generate.drawing import draw_tokens, uniforms


class Answer(NamedTuple):
    """The rating of an image on the scale of 1..5, and what it is the mean of."""

    rating: float | None  # None: no answer could be read
    spread: float | None  # standard deviation of the sampled ratings
    ratings: list[float]  # sampled
    stated: float | None  # the greedy rating
    answers: list[str]  # sampled


class ExportedModel(ExportedBase):
    """A model that rates images; it is asked `answers` times, `at_once` of them in one pass."""

    @torch.inference_mode()
    def ask(self, path: str | Path, at_once: int = 8) -> Answer:
        """Rate an image file. The draws follow from the seed and the content of the file, so they repeat."""
        image, facts = self.open_image(path), self.facts
        key = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        answers: list[str] = []
        while (first := len(answers)) < facts["answers"]:
            count = min(at_once, facts["answers"] - first)
            answers += self.generate(
                image, count, LogitsProcessorList([_Draw(facts, key, range(first, first + count))])
            )
        answers = [text.strip() for text in answers]
        ratings = [rating for text in answers if (rating := read_rating(text)) is not None]
        return Answer(
            fmean(ratings) if ratings else None,
            stdev(ratings) if len(ratings) > 1 else None,
            ratings,
            read_rating(self.generate(image)[0].strip()),
            answers,
        )


class _Draw(LogitsProcessor):
    """Leaves greedy search only the tokens that were drawn."""

    def __init__(self, facts: dict[str, Any], key: str, answers: range):
        noise = [uniforms(facts["seed"], key, answer, facts["max_new_tokens"]) for answer in answers]
        self._noise, self._temperature, self._step = torch.from_numpy(np.stack(noise)), facts["temperature"], 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        even = self._noise[:, self._step].to(scores.device)
        self._step += 1
        chosen = draw_tokens(scores, even, self._temperature, 1.0)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)
