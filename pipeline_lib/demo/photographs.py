"""Real photographs that ship inside scikit-image, scikit-learn and matplotlib: no network, no download.

Each photograph belongs to one split, so that no split ever shows a crop of another split's image.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]
"""An RGB image, height x width x 3, values 0..1."""

PHOTOGRAPHS: dict[str, dict[str, str]] = {
    "train": {
        "astronaut": "skimage/data/astronaut.png",
        "camera": "skimage/data/camera.png",
        "coffee": "skimage/data/coffee.png",
        "gravel": "skimage/data/gravel.png",
        "hubble": "skimage/data/hubble_deep_field.jpg",
        "ihc": "skimage/data/ihc.png",
        "motorcycle": "skimage/data/motorcycle_left.png",
        "rocket": "skimage/data/rocket.jpg",
    },
    "val": {
        "brick": "skimage/data/brick.png",
        "chelsea": "skimage/data/chelsea.png",
        "china": "sklearn/datasets/images/china.jpg",
        "coins": "skimage/data/coins.png",
    },
    "test": {
        "flower": "sklearn/datasets/images/flower.jpg",
        "grace_hopper": "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "grass": "skimage/data/grass.png",
        "moon": "skimage/data/moon.png",
    },
}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_LONG_SIDE_PX = 420


@lru_cache(maxsize=32)
def _load(relative_path: str) -> Image.Image:
    package, _, inside = relative_path.partition("/")
    # find_spec, not import: importing scikit-learn only to find a JPEG costs two seconds.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the demo needs the package {package!r}, which is not installed: pip install whyscore")
    path = Path(spec.origin).parent / inside
    if not path.is_file():
        raise FileNotFoundError(f"{package} is installed without {inside}; expected it at {path}")
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_LONG_SIDE_PX, _LONG_SIDE_PX), Image.Resampling.LANCZOS)
    return image


def _even_out(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Bring a crop to full range, medium brightness and visible colour, so that only the distortions decide."""
    low, high = np.percentile(pixels, (1, 99))
    pixels = np.clip((pixels - low) / max(float(high - low), 0.08), 0, 1).astype(np.float32)
    luma = pixels @ _LUMA
    middle = float(np.clip(luma.mean(), 0.06, 0.94))
    pixels = pixels ** np.float32(np.clip(np.log(0.48) / np.log(middle), 0.45, 2.2))
    luma = (pixels @ _LUMA)[..., None]
    chroma = pixels - luma
    strength = float(np.abs(chroma).mean())
    if strength < 0.01:  # a black-and-white photograph: tone it, or fading could not be seen on it
        dark, light = rng.uniform(0.0, 0.45, 3), rng.uniform(0.55, 1.0, 3)
        return np.asarray(dark + (light - dark) * luma, np.float32)
    return np.clip(luma + chroma * min(0.11 / strength, 3.0), 0, 1).astype(np.float32)


def photograph(rng: np.random.Generator, split: str, side_px: int) -> tuple[Pixels, str]:
    """A random square crop of one of the split's photographs, side_px x side_px x 3 in 0..1, and its name."""
    names = sorted(PHOTOGRAPHS[split])
    name = names[int(rng.integers(len(names)))]
    source = _load(PHOTOGRAPHS[split][name])
    crop = float(rng.uniform(0.35, 0.95)) * min(source.size)
    left, top = rng.uniform(0, source.width - crop), rng.uniform(0, source.height - crop)
    # A filter size set by the crop keeps a large crop from aliasing, which would look like noise.
    resized = source.resize((side_px, side_px), Image.Resampling.BICUBIC, box=(left, top, left + crop, top + crop))
    pixels = np.asarray(resized, np.float32) / np.float32(255)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return _even_out(pixels, rng), name
