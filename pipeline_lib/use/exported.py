"""Ask a model of self_improve that WhyScore has exported.

`whyscore predict --export` copies this module and those that it imports to the exported folder, so that the README's
code prepares images, asks and reads a score as `whyscore predict` does.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from pipeline_lib.use.exported_base import ExportedBase


class Answer(NamedTuple):
    """The answer about an image: its score on the data set's own scale, the text, and the probabilities of 0..9."""

    score: float
    text: str
    distribution: list[float]


class ExportedModel(ExportedBase):
    """A model that scores images and says why."""

    formats = (1, 2)

    @torch.inference_mode()
    def ask(self, path: str | Path) -> Answer:
        """Score and explain an image file."""
        image, facts = self.open_image(path), self.facts
        inputs = self.inputs(image, facts["chat"] + facts["score_context"])
        logits = self.model(**inputs, logits_to_keep=1).logits[0, -1].double()
        distribution = logits[facts["score_token_ids"]].softmax(0).tolist()
        score = sum(p * value for p, value in zip(distribution, facts["reference_values"], strict=True))
        return Answer(score, self.generate(image)[0], distribution)
