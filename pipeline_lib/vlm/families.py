"""Special cases of model families; a family that is not in the table needs none."""

from collections.abc import Callable
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


class Family(NamedTuple):
    """The special cases of a family."""

    processor: Any = None  # instead of the one that AutoProcessor finds
    limit_tiles: Callable[[Any, int], None] | None = None  # None: the family does not cut images into tiles
    max_aspect_ratio: float | None = None  # its image processor refuses a larger ratio


FAMILIES = {
    "internvl": Family(PROCESSORS["internvl"], limit_tiles=_limit_patches),
    "llava_next": Family(limit_tiles=_limit_pinpoints),
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
