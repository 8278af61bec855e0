"""Pixels of every mode that Pillow opens as 8-bit RGB: black and white follow from the file's type, never its content.

The table of modes is in docs/data-sets.md.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
_ROUNDING = 1e-6
"""Floats beyond 0..1 by less than this are rounding errors of the program that wrote them."""


class UnusablePixelsError(ValueError):
    """Pixels that no rule makes 8-bit RGB of, with the reason."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """The pixels of an opened image, upright, transparency laid on white.

    Raises `UnusablePixelsError` when they are not numbers, or not between what their type has for black and for white.
    """
    tags, stored_as = getattr(image, "tag_v2", {}), _stored_as(image)
    image.load()
    image = _upright(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F" or _is_signed(tags):
        image = _grey(image, tags, transparent)
    elif transparent is not None and image.format == "PNG":
        image.info["transparency"] = _as_loaded(transparent, stored_as)
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Pillow's own function also writes the EXIF again, and fails on a valid one with a value that it cannot write."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # an unreadable EXIF says nothing, as in any viewer
        return image
    method = _TRANSPOSED.get(orientation)
    if method is None:
        return image
    turned = image.transpose(method)
    turned.format = image.format
    return turned


def _is_signed(tags: dict[int, object]) -> bool:
    return _first(tags, _SAMPLE_FORMAT, _UNSIGNED) == _SIGNED


def _grey(image: Image.Image, tags: dict[int, object], transparent: object) -> Image.Image:
    """Grey of more than 8 bits, signed, or of floats as 8-bit grey."""
    values: NDArray[Any]
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        _refuse_outside(values, -_ROUNDING, 1 + _ROUNDING, "floats must be 0 (black) to 1 (white)")
        share = values.clip(0, 1)
    else:
        values, white = _integers(image, tags)
        share = values / np.float32(white) if white <= 0xFFFF else (values / np.float64(white)).astype(np.float32)
    if _first(tags, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO and (image.mode != "L"):
        share = 1 - share
    grey = Image.fromarray((share * np.float32(255)).round().astype(np.uint8))
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _integers(image: Image.Image, tags: dict[int, object]) -> tuple[NDArray[Any], int]:
    """The values of an integer image, and the one that is white: the largest of its type."""
    stored = np.asarray(image)
    bits = int(str(_first(tags, _BITS, 16)))
    if _is_signed(tags):
        values = stored.astype(np.int8) if bits == 8 else stored
        _refuse_outside(values, 0, None, "signed integers must be 0 (black) or more")
        return values, 2 ** (bits - 1) - 1
    return (stored.view(np.uint32) if bits == 32 else stored), 2**bits - 1


def _refuse_outside(values: NDArray[Any], low: float, high: float | None, rule: str) -> None:
    least, most = values.min(), values.max()
    if np.isnan(least) or np.isnan(most):
        raise UnusablePixelsError("its pixels hold NaN; repair it, or convert it to 8-bit PNG")
    if least < low or (high is not None and most > high):
        raise UnusablePixelsError(f"its pixels are {least:g} to {most:g}; {rule}. Convert it to 8-bit PNG")


def _stored_as(image: Image.Image) -> str:
    """How a PNG stores its pixels, e.g. `L;4` or `RGB;16B`; Pillow forgets it when it loads them."""
    tile = getattr(image, "tile", None)
    return str(tile[0][3]) if tile else ""


def _as_loaded(transparent: object, stored_as: str) -> object:
    """The transparent colour of a PNG, in the values that its pixels have when they are loaded."""
    if isinstance(transparent, int):
        return transparent * {"L;2": 85, "L;4": 17}.get(stored_as, 1)
    if isinstance(transparent, tuple) and stored_as == "RGB;16B":
        return tuple(value >> 8 for value in transparent)
    return transparent


def _first(tags: dict[int, object], tag: int, otherwise: int) -> object:
    value = tags.get(tag, otherwise)
    return value[0] if isinstance(value, tuple) else value
