"""Distortions of a photograph, each in five levels: what a model has to rank without anybody's label.

The paper (arXiv 2509.25787) uses 35 types in five levels and does not list them; these 35 are common ones of image
quality data sets, in our own strengths. A recipe says how many of them it draws from (`pairs.variants.kinds`).
"""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

Pixels = Any
"""(height, width, 3), floats in 0..1."""

LEVELS = 5


def distorted(image: Image.Image, distortion: str, level: int, rng: np.random.Generator) -> Image.Image:
    """The image with one distortion of a level 1..5; the same image, arguments and stream give the same pixels."""
    strengths, function = _DISTORTIONS[distortion]
    pixels = function(np.asarray(image.convert("RGB"), np.float64) / 255, strengths[level - 1], rng)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def _blur(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    sigma_px = share * max(pixels.shape)
    return ndimage.gaussian_filter(pixels, (sigma_px, sigma_px, 0))


def _lens_blur(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    radius = max(1.0, share * max(pixels.shape))
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    return _convolved(pixels, disk)


def _motion_blur(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    reach = max(1, round(share * max(pixels.shape)))
    line = np.zeros((2 * reach + 1, 2 * reach + 1))
    line[reach] = 1
    return _convolved(pixels, ndimage.rotate(line, float(rng.uniform(0, 180)), reshape=False, order=1).clip(0))


def _convolved(pixels: Pixels, kernel: Any) -> Pixels:
    return ndimage.convolve(pixels, (kernel / kernel.sum())[..., None], mode="reflect")


def _noise(pixels: Pixels, sd: float, rng: np.random.Generator) -> Pixels:
    return pixels + rng.normal(0, sd, pixels.shape)


def _grey_noise(pixels: Pixels, sd: float, rng: np.random.Generator) -> Pixels:
    return pixels + rng.normal(0, sd, pixels.shape[:2])[..., None]


def _speckle_noise(pixels: Pixels, sd: float, rng: np.random.Generator) -> Pixels:
    return pixels * (1 + rng.normal(0, sd, pixels.shape))


def _impulse_noise(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    hit, white = rng.random(pixels.shape[:2]) < share, rng.random(pixels.shape[:2]) < 0.5
    return np.where(hit[..., None], white[..., None].astype(float), pixels)


def _denoised(pixels: Pixels, sd: float, rng: np.random.Generator) -> Pixels:
    return ndimage.median_filter(_noise(pixels, sd, rng).clip(0, 1), size=(5, 5, 1))


def _stored(file_format: str) -> Callable[[Pixels, float, np.random.Generator], Pixels]:
    def store(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
        file = io.BytesIO()
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, file_format, quality=int(quality))
        return np.asarray(Image.open(file).convert("RGB"), np.float64) / 255

    return store


def _pixelated(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    size = max(2, round(share * max(height, width)))
    rows, columns = (np.arange(side) // size * size for side in (height, width))
    return pixels[rows][:, columns]


def _jittered(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    reach = share * max(pixels.shape)
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    shift = rng.uniform(-reach, reach, (2, height, width)).round().astype(int)
    return pixels[(y + shift[0]).clip(0, height - 1), (x + shift[1]).clip(0, width - 1)]


def _blocks(pixels: Pixels, count: float, rng: np.random.Generator) -> Pixels:
    pixels = pixels.copy()
    height, width = pixels.shape[:2]
    side = max(2, max(height, width) // 12)
    for _ in range(int(count)):
        top, left = (int(rng.integers(0, max(1, room - side))) for room in (height, width))
        pixels[top : top + side, left : left + side] = rng.random(3)
    return pixels


def _wrong_patches(pixels: Pixels, count: float, rng: np.random.Generator) -> Pixels:
    changed = pixels.copy()
    height, width = pixels.shape[:2]
    side = max(2, max(height, width) // 12)
    for _ in range(int(count)):
        tops, lefts = (rng.integers(0, max(1, room - side), 2) for room in (height, width))
        part = pixels[tops[1] : tops[1] + side, lefts[1] : lefts[1] + side]
        changed[tops[0] : tops[0] + part.shape[0], lefts[0] : lefts[0] + part.shape[1]] = part
    return changed


def _sharpened(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return pixels + amount * (pixels - ndimage.gaussian_filter(pixels, (1.5, 1.5, 0)))


def _quantized(pixels: Pixels, values: float, rng: np.random.Generator) -> Pixels:
    return (pixels * (values - 1)).round() / (values - 1)


def _gamma(pixels: Pixels, exponent: float, rng: np.random.Generator) -> Pixels:
    return pixels**exponent


def _shifted(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    return pixels + amount * (1 if rng.random() < 0.5 else -1)


def _contrast(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    return pixels.mean() + (pixels - pixels.mean()) * factor


def _saturation(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    grey = pixels.mean(axis=2, keepdims=True)
    return grey + (pixels - grey) * factor


def _colour_cast(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    cast = rng.normal(size=3)
    cast -= cast.mean()
    return pixels + amount * cast / np.abs(cast).max()


def _smeared_colours(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    grey = pixels.mean(axis=2, keepdims=True)
    return grey + _blur(pixels - grey, share, rng)


def _zoom_blur(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    scales = np.linspace(1, 1 + share, 8)
    return sum(_zoomed(pixels, scale) for scale in scales) / len(scales)


def _zoomed(pixels: Pixels, scale: float) -> Pixels:
    height, width = pixels.shape[:2]
    y, x = ((np.arange(side) - (side - 1) / 2) / scale + (side - 1) / 2 for side in (height, width))
    grid = np.meshgrid(y, x, indexing="ij")
    return np.stack([ndimage.map_coordinates(pixels[..., at], grid, order=1, mode="reflect") for at in range(3)], -1)


def _glass_blur(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    return ndimage.gaussian_filter(_jittered(pixels, share, rng), (0.8, 0.8, 0))


def _small(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    shrunk = image.resize([max(2, round(side / factor)) for side in image.size], Image.Resampling.BOX)
    return np.asarray(shrunk.resize(image.size, Image.Resampling.BICUBIC), np.float64) / 255


def _row_noise(pixels: Pixels, sd: float, rng: np.random.Generator) -> Pixels:
    return pixels + rng.normal(0, sd, pixels.shape[0])[:, None, None]


def _shot_noise(pixels: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    return rng.poisson(pixels.clip(0, 1) * photons) / photons


def _colour_noise(pixels: Pixels, sd: float, rng: np.random.Generator) -> Pixels:
    noise = rng.normal(0, sd, pixels.shape)
    return pixels + noise - noise.mean(axis=2, keepdims=True)


def _vignetted(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return pixels * (1 - strength * (x**2 + y**2) / 2)[..., None]


def _hazy(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    return pixels * (1 - share) + 0.85 * share


def _dithered(pixels: Pixels, values: float, rng: np.random.Generator) -> Pixels:
    noise = rng.uniform(-0.5, 0.5, pixels.shape)
    return (pixels * (values - 1) + noise).round().clip(0, values - 1) / (values - 1)


def _striped(pixels: Pixels, amplitude: float, rng: np.random.Generator) -> Pixels:
    rows = np.arange(pixels.shape[0]) * 16 / pixels.shape[0]
    return pixels + amplitude * np.sin(2 * np.pi * (rows + rng.random()))[:, None, None]


def _shifted_colours(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    reach = max(1, round(share * max(pixels.shape)))
    moved = [
        ndimage.shift(pixels[..., at], (0, step), order=0, mode="nearest") for at, step in ((0, reach), (2, -reach))
    ]
    return np.stack([moved[0], pixels[..., 1], moved[1]], -1)


_DISTORTIONS: Mapping[str, tuple[tuple[float, ...], Callable[[Pixels, float, np.random.Generator], Pixels]]] = (
    MappingProxyType(
        {
            "blur": ((0.004, 0.008, 0.012, 0.018, 0.026), _blur),
            "lens_blur": ((0.008, 0.014, 0.02, 0.028, 0.04), _lens_blur),
            "motion_blur": ((0.01, 0.02, 0.03, 0.045, 0.06), _motion_blur),
            "noise": ((0.03, 0.06, 0.1, 0.15, 0.22), _noise),
            "grey_noise": ((0.03, 0.06, 0.1, 0.15, 0.22), _grey_noise),
            "speckle_noise": ((0.08, 0.15, 0.25, 0.38, 0.55), _speckle_noise),
            "impulse_noise": ((0.005, 0.015, 0.03, 0.06, 0.12), _impulse_noise),
            "denoised": ((0.05, 0.1, 0.16, 0.24, 0.34), _denoised),
            "jpeg": ((40, 25, 15, 9, 4), _stored("JPEG")),
            "webp": ((40, 22, 12, 6, 1), _stored("WEBP")),
            "pixelated": ((0.012, 0.02, 0.03, 0.045, 0.065), _pixelated),
            "jitter": ((0.01, 0.018, 0.027, 0.038, 0.05), _jittered),
            "blocks": ((2, 4, 7, 11, 16), _blocks),
            "wrong_patches": ((4, 8, 14, 22, 32), _wrong_patches),
            "sharpened": ((1.5, 3, 5, 8, 12), _sharpened),
            "quantized": ((12, 8, 6, 4, 3), _quantized),
            "darkened": ((1.4, 1.8, 2.4, 3.2, 4.4), _gamma),
            "brightened": ((0.72, 0.56, 0.42, 0.31, 0.23), _gamma),
            "shifted": ((0.1, 0.18, 0.26, 0.35, 0.45), _shifted),
            "flattened": ((0.75, 0.58, 0.43, 0.3, 0.2), _contrast),
            "hardened": ((1.4, 1.8, 2.4, 3.2, 4.4), _contrast),
            "faded": ((0.65, 0.45, 0.28, 0.14, 0.03), _saturation),
            "colour_cast": ((0.06, 0.1, 0.15, 0.21, 0.3), _colour_cast),
            "smeared_colours": ((0.01, 0.02, 0.035, 0.055, 0.08), _smeared_colours),
            "zoom_blur": ((0.03, 0.06, 0.1, 0.15, 0.22), _zoom_blur),
            "glass_blur": ((0.008, 0.015, 0.024, 0.035, 0.05), _glass_blur),
            "low_resolution": ((1.5, 2, 3, 4.5, 7), _small),
            "row_noise": ((0.03, 0.06, 0.1, 0.15, 0.22), _row_noise),
            "shot_noise": ((200, 80, 35, 15, 6), _shot_noise),
            "colour_noise": ((0.04, 0.08, 0.13, 0.2, 0.3), _colour_noise),
            "vignetted": ((0.3, 0.45, 0.6, 0.8, 1), _vignetted),
            "hazy": ((0.15, 0.28, 0.42, 0.57, 0.72), _hazy),
            "dithered": ((10, 7, 5, 3, 2), _dithered),
            "striped": ((0.04, 0.08, 0.13, 0.19, 0.26), _striped),
            "shifted_colours": ((0.01, 0.03, 0.06, 0.1, 0.15), _shifted_colours),
        }
    )
)

DISTORTIONS = tuple(_DISTORTIONS)
"""Their names."""
