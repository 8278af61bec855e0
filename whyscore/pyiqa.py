"""A trained model as a no-reference metric of pyiqa, which is installed apart: `pip install pyiqa`.

    import pyiqa
    from whyscore.pyiqa import register

    register("mine", "recipe.yaml")
    metric = pyiqa.create_metric("mine", device="cpu")
    metric("photo.jpg")                      # tensor([[6.5]]), on the own scale of the model

pyiqa hands over pixels: it reads a file without its EXIF rotation and drops transparency, which `whyscore predict`
and `Scorer` do not.
"""

import os
from typing import Any

import torch
from PIL import Image

from pipeline_lib.errors import DataError
from whyscore import Scorer

_ARCHITECTURE = "WhyScore"


class WhyScore(torch.nn.Module):
    """The network that pyiqa builds: images of shape (n, 1 or 3, height, width), 0..1, to scores of shape (n, 1).

    `source` and the other settings are those of `Scorer.load`. It has no gradient. Raises `DataError` when an image
    cannot be scored, e.g. because of its shape.
    """

    def __init__(self, source: str, **settings: Any):
        super().__init__()
        self.scorer = Scorer.load(source, **settings)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The scores, on the own scale of the model."""
        pixels = (images.detach().clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
        scored = self.scorer.score([Image.fromarray(image) for image in pixels.cpu().numpy()])
        if problems := [row.problem for row in scored if row.problem is not None]:
            raise DataError(f"{len(problems)} of {len(scored)} images could not be scored, e.g. {problems[0]}")
        return images.new_tensor([[row.predicted] for row in scored])


def register(name: str, source: str | os.PathLike[str], **settings: Any) -> None:
    """Make `pyiqa.create_metric(name)` load a model: a run's recipe, an exported folder or a hub id (`Scorer.load`).

    The device of the model is in `settings` too (`device`); that of `create_metric` is pyiqa's own. Raises `DataError`
    when pyiqa has another metric of this name.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY

    known = DEFAULT_CONFIGS.get(name)
    if known is not None and known["metric_opts"]["type"] != _ARCHITECTURE:
        raise DataError(f"pyiqa has a metric {name} of its own; give another name")
    if _ARCHITECTURE not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(WhyScore)
    options = {"type": _ARCHITECTURE, "source": os.fspath(source), **settings}
    DEFAULT_CONFIGS[name] = {"metric_opts": options, "metric_mode": "NR", "lower_better": False}
