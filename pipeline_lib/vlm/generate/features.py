"""What a vision tower makes of images, kept image by image, so that no image is encoded twice."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PerImage = Tensor | Sequence[Tensor]
"""Features of several images: one tensor with equal shares, or a list with as many tensors for each."""


class ImageFeatures(NamedTuple):
    """The parts of transformers' output that a language model is given, under their names there."""

    pooler_output: PerImage
    deepstack_features: list[PerImage] | None = None  # for the first layers of a language model, a part each


@torch.no_grad()
def image_features(inner: Any, batch: dict[str, Any]) -> ImageFeatures:
    """Encode the images of a batch with a VLM without its head."""
    takes = inspect.signature(inner.get_image_features).parameters
    found = inner.get_image_features(
        **{name: value for name, value in batch.items() if name in takes}, return_dict=True
    )
    return ImageFeatures(found.pooler_output, getattr(found, "deepstack_features", None))


def split_features(features: ImageFeatures, count: int) -> list[ImageFeatures]:
    """Those of each row, of `count` rows with equally many images and tiles."""
    pooled = _split(features.pooler_output, count)
    layers = [_split(layer, count) for layer in features.deepstack_features or []]
    return [
        ImageFeatures(pooled[at], [layer[at] for layer in layers] if features.deepstack_features else None)
        for at in range(count)
    ]


def join_features(rows: Sequence[ImageFeatures]) -> ImageFeatures:
    """Those of a batch with these rows."""
    layers = [row.deepstack_features for row in rows if row.deepstack_features]
    return ImageFeatures(
        _join([row.pooler_output for row in rows]),
        [_join(layer) for layer in zip(*layers, strict=True)] if layers else None,
    )


def _split(features: PerImage, count: int) -> list[PerImage]:
    each = len(features) // count
    return [features[at * each : (at + 1) * each] for at in range(count)]


def _join(parts: Sequence[PerImage]) -> PerImage:
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if tensors:
        return torch.cat(tensors)
    return [image for part in parts for image in part]
