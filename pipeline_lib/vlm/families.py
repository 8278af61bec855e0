"""Special cases of model families; a family that is not in the table needs none."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL.Image import Image

from pipeline_lib.errors import DataError, ModelError
from pipeline_lib.vlm.image_processors import PROCESSORS


def _limit_patches(image_processor: Any, most: int) -> None:
    image_processor.max_patches = most


def _limit_pinpoints(image_processor: Any, most: int) -> None:
    size = image_processor.crop_size
    tile = size["height"] * size["width"]
    pinpoints = [point for point in image_processor.image_grid_pinpoints if point[0] * point[1] <= most * tile]
    if not pinpoints:
        least = min(point[0] * point[1] // tile for point in image_processor.image_grid_pinpoints)
        raise ModelError(f"model.max_tiles {most}: this model cuts every image into {least} tiles or more")
    image_processor.image_grid_pinpoints = pinpoints


def _complete_llava(processor: Any, config: Any) -> None:
    """Tell the processor what older checkpoints leave to the model: without it no image has a number of tokens."""
    vision = config.vision_config
    if processor.patch_size is None:
        processor.patch_size = vision.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = int(vision.model_type == "clip_vision_model")  # the token of the class


class Family(NamedTuple):
    """The special cases of a family."""

    processor: Any = None  # instead of the one that AutoProcessor finds
    limit_tiles: Callable[[Any, int], None] | None = None  # None: the family does not cut images into tiles
    complete: Callable[[Any, Any], None] | None = None  # a processor of an older checkpoint, with the configuration
    max_aspect_ratio: float | None = None  # its image processor refuses a larger ratio
    vllm: str | None = "0.10.2"  # the first vLLM that takes its adapters and tells tokens; None: vLLM does not know it


FAMILIES = {
    "fast_vlm": Family(vllm=None),
    "internvl": Family(PROCESSORS["internvl"], limit_tiles=_limit_patches),
    "llava": Family(complete=_complete_llava, vllm="0.14.0"),  # merged in December 2025
    "llava_next": Family(
        limit_tiles=_limit_pinpoints,
        complete=_complete_llava,
        vllm="0.32.0",  # merged after July 2026; the oldest tried
    ),
    "qwen2_5_vl": Family(PROCESSORS["qwen2_5_vl"], max_aspect_ratio=200),
    "qwen3_vl": Family(PROCESSORS["qwen3_vl"], max_aspect_ratio=200),
}
"""By `model_type`."""


def family_of(model_type: str) -> Family:
    """The family of a `model_type`; one without special cases when it is not in the table."""
    return FAMILIES.get(model_type, Family())


def limit_tiles(model_type: str, image_processor: Any, most: int | None) -> None:
    """Limit the tiles of an image to `most` (InternVL's overview tile is not counted).

    Raises `ModelError` when the family has no tiles, or always more.
    """
    limit = family_of(model_type).limit_tiles
    if most is None:
        return
    if limit is None:
        raise ModelError(f"model.max_tiles {most}: models of type {model_type} do not cut images into tiles; remove it")
    limit(image_processor, most)


def check_image(model_type: str, image: Image) -> None:
    """Raise `DataError` for an image of a shape that the family's image processor would refuse in the middle of a run.

    The image is one that is already resized; its name is taken from `image.info["image"]` where it is known.
    """
    limit = family_of(model_type).max_aspect_ratio
    ratio = max(image.size) / min(image.size)
    if limit is not None and ratio > limit:
        name = image.info.get("image", "an image")
        raise DataError(
            f"{name} is {image.width}x{image.height} px when resized for the model: models of type {model_type} take no"
            f" image whose sides are more than {limit:g} : 1, this one's are {ratio:.0f} : 1; remove it from the table"
        )


def check_shapes(model_type: str, images: Sequence[str], sizes: Sequence[tuple[int, int]], resize_px: int) -> None:
    """Raise `DataError` for images that `check_image` would refuse, found by their width and height alone."""
    limit = family_of(model_type).max_aspect_ratio
    if limit is None:
        return
    resized = [_resized(*size, resize_px) for size in sizes]
    found = [(name, size) for name, size in zip(images, resized, strict=True) if max(size) / min(size) > limit]
    if found:
        shown = ", ".join(f"{name} ({width}x{height} px when resized)" for name, (width, height) in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise DataError(
            f"{len(found)} of {len(images)} images have a shape that models of type {model_type} refuse, longer than"
            f" {limit:g} : 1: {shown}{more}; remove them from the table"
        )


def _resized(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of an image after `Image.thumbnail`; the shorter side is rounded to the nearest aspect ratio."""
    if max(width, height) <= side:
        return width, height
    aspect, short = width / height, min(width, height) * side / max(width, height)
    near = [max(int(short), 1), max(-int(-short // 1), 1)]

    def error(candidate: int) -> float:
        return abs(aspect - (side / candidate if width >= height else candidate / side))

    best = min(near, key=error)
    return (side, best) if width >= height else (best, side)
