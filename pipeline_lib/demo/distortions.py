"""Distortions of known severity: what the simulated raters dislike and the explanations should name."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from pipeline_lib.demo.photographs import Pixels


class Severity(NamedTuple):
    """How bad each fault is, 0 (absent) to 1 (very bad); exposure is signed, -1 (too dark) to 1 (too bright)."""

    clutter: float
    fading: float
    flatness: float
    exposure: float
    blur: float
    blockiness: float
    noise: float


ATTRIBUTES = Severity._fields
FAULTLESS = Severity(*[0.0] * len(ATTRIBUTES))


def draw_severity(rng: np.random.Generator) -> Severity:
    """Nought to three clear faults at random; the others stay too small to see."""
    values = rng.uniform(0, 0.08, len(ATTRIBUTES))
    faults = rng.choice(len(ATTRIBUTES), size=int(rng.integers(0, 4)), replace=False)
    values[faults] = rng.uniform(0.2, 1.0, len(faults))
    exposure = ATTRIBUTES.index("exposure")
    values[exposure] *= -1.0 if rng.random() < 0.5 else 1.0
    return Severity(*(round(float(value), 3) for value in values))


def _clutter(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    count = round(14 * severity) if severity > 0.1 else 0
    if not count:
        return pixels
    canvas = Image.fromarray((pixels * 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    side = canvas.width
    for _ in range(count):
        x, y = (float(v) for v in rng.uniform(0, side, 2))
        size = float(rng.uniform(0.06, 0.13)) * side
        red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            draw.line(
                [(x - size, y - size), (x + size, y + size * float(rng.uniform(-1, 1)))],
                fill=(red, green, blue),
                width=3,
            )
        else:
            draw.rectangle((x - size / 2, y - size / 2, x + size / 2, y + size / 2), fill=(red, green, blue))
    return np.asarray(canvas, np.float32) / np.float32(255)


def distort(pixels: Pixels, severity: Severity, rng: np.random.Generator) -> Pixels:
    """Apply the faults in the order a bad camera would: scene, colours, light, lens, compression, sensor noise."""
    pixels = _clutter(pixels, severity.clutter, rng)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(1 - 0.97 * severity.fading)
    centre = np.float32(pixels.mean())
    pixels = centre + (pixels - centre) * np.float32(1 - 0.8 * severity.flatness)
    pixels = np.clip(pixels, 0, 1) ** np.float32(2.0 ** (-2.2 * severity.exposure))
    if severity.blur > 0.05:
        sigma_px = 0.025 * pixels.shape[0] * severity.blur
        pixels = gaussian_filter(pixels, (sigma_px, sigma_px, 0), truncate=2.5)
    if severity.blockiness > 0.1:
        buffer = io.BytesIO()
        quality = round(26 - 24 * severity.blockiness)
        Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
        pixels = np.asarray(Image.open(buffer), np.float32) / np.float32(255)
    if severity.noise > 0.02:
        pixels = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(0.17 * severity.noise)
    return np.clip(pixels, 0, 1).astype(np.float32)
