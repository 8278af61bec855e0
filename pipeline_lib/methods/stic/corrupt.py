"""Corrupted images for dis-preferred answers (section 4.1): low resolution or colour jitter, drawn for each image."""

import numpy as np
from PIL import Image

from pipeline_lib.sampling import draw


def low_resolution(image: Image.Image, shorter_side_px: int) -> Image.Image:
    """The image with its shorter side at `shorter_side_px`, its proportions kept; a smaller image stays as it is."""
    width, height = image.size
    scale = shorter_side_px / min(width, height)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return image.resize(size, Image.Resampling.BILINEAR)


def color_jitter(image: Image.Image, brightness: float, hue: float) -> Image.Image:
    """The pixels times `brightness`, clipped; then the hue turned by `hue` circles. Size and mode stay RGB."""
    pixels = np.clip(np.asarray(image.convert("RGB"), np.float32) * brightness, 0, 255).round().astype(np.uint8)
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + round(hue * 256)) % 256
    return Image.fromarray(hsv, "HSV").convert("RGB")


def draw_jitter(seed: int, image: str, brightness: float, hue: float) -> tuple[float, float]:
    """The factor of brightness, in 1 +- `brightness`, and the turn of the hue, in +- `hue`, of an image by its name."""
    factor = 1 + brightness * (2 * draw(f"{seed}:brightness", image) - 1)
    return factor, hue * (2 * draw(f"{seed}:hue", image) - 1)
