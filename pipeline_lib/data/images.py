"""Open images safely and everywhere in the same way."""

import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from pipeline_lib.data.modes import UnusablePixelsError, upright_rgb
from pipeline_lib.data.near_duplicates import Looks, look_at
from pipeline_lib.data.pixels import PixelCache
from pipeline_lib.data.sources import ImageSource, MissingImage
from pipeline_lib.data.table import ImageList
from pipeline_lib.errors import DataError
from pipeline_lib.progress import Progress

Image.MAX_IMAGE_PIXELS = None  # WhyScore has its own limit below, which raises an error

Image.init()  # so that FORMATS finds all its decoders

# Memory of a large image goes back to the system: blocks of glibc below 32 MB stay with the thread that freed them.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM")
"""Raster formats only. Pillow knows more, some of which run other programs (EPS) or hide larger images (ICO)."""

_AT_ONCE = 1024  # images in the threads' queue; all 255,000 of AVA at once would need memory and outlast an error


PIXELS_AT_ONCE = 100_000_000
"""Full-size pixels that all threads of a process hold together, of up to 20 bytes each; one image may be larger."""


class ImageFacts(NamedTuple):
    """The facts about an image file after decoding it once; `problem` is empty for a readable image."""

    sha256: str
    width_px: int
    height_px: int
    format: str
    problem: str
    look: Looks | None = None  # for `near_duplicates`; None: not asked for, or unreadable


@contextmanager
def decoded(content: bytes, max_megapixels: float) -> Iterator[Image.Image]:
    """An image file as upright 8-bit RGB; of an animation the first frame. `format` is the file's.

    EXIF rotation is applied; pixels are converted as `modes.upright_rgb` says. The size is checked before any pixel is
    decoded. Other threads wait while images of `PIXELS_AT_ONCE` are in use, so use only a smaller copy afterwards, and
    open no second image meanwhile. Raises `ValueError` with the reason when the file is not a usable image.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_no_image(content)) from None
    except Exception as error:  # a damaged file makes Pillow raise anything
        raise ValueError(f"cannot be decoded: {error}") from error
    with _space.take(min(image.width * image.height, PIXELS_AT_ONCE)):
        upright = opened_rgb(image, max_megapixels)
        upright.format = image.format
        yield upright


class _Space:
    """Room for pixels in memory; who comes first is served first, so that small images do not overtake a large one."""

    def __init__(self, pixels: int):
        self._left, self._turn, self._news = pixels, threading.Lock(), threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        with self._turn, self._news:
            self._news.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._news:
                self._left += pixels
                self._news.notify()  # only the one whose turn it is waits for it


_space = _Space(PIXELS_AT_ONCE)


def opened_rgb(image: Image.Image, max_megapixels: float) -> Image.Image:
    """The pixels of an opened image as `decoded` gives them. Raises `ValueError` with the reason when it cannot."""
    if 0 in image.size:
        raise ValueError(f"{image.width}x{image.height} px has no pixels")
    if image.width * image.height > max_megapixels * 1e6:
        raise ValueError(
            f"{image.width}x{image.height} px is over data.max_megapixels = {max_megapixels:g} million pixels"
        )
    try:
        return upright_rgb(image)
    except UnusablePixelsError:
        raise
    except Exception as error:
        raise ValueError(f"cannot be decoded: {error}") from error


def _no_image(content: bytes) -> str:
    start = content[:1024].lstrip()
    if start[4:8] == b"ftyp" and start[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}:
        return "a HEIC image, which WhyScore does not read; convert it to JPEG or PNG"
    if b"<svg" in start.lower():
        return "an SVG drawing, which WhyScore does not read; convert it to PNG"
    return f"not an image file of a supported format ({', '.join(FORMATS)})"


def open_image(
    source: ImageSource,
    image: str,
    sha256: str,
    resize_px: int,
    max_megapixels: float,
    pixels: PixelCache | None = None,
) -> Image.Image:
    """Read an image whose digest is known; its longest side is at most `resize_px` (appendix A.1), never enlarged.

    `pixels` caches decoded images; the result is the same. Raises `DataError` when the file is gone or its content has
    changed, even if the cache holds it.
    """
    try:
        content = source.read(image)
    except MissingImage as error:
        raise DataError(f"image {image} was found when the table was read, but now: {error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"image {image} has changed since the table was read; run the recipe again to start with the new file, or"
            " put the old file back"
        )
    opened = pixels.get(sha256, resize_px) if pixels else None
    if opened is None:
        with decoded(content, max_megapixels) as opened:
            full_size = opened.size
            opened.thumbnail((resize_px, resize_px), Image.Resampling.BICUBIC)
        if pixels and opened.size != full_size:  # a small image is decoded as fast as it would be read from the cache
            pixels.keep(sha256, resize_px, opened)
    # Only the pixels of the file are kept, and its name for later errors.
    opened.info = {"image": image}
    return opened


def scan_images(images: ImageList, max_megapixels: float, *, with_looks: bool = False) -> list[ImageFacts]:
    """Decode every image once; the result is in the order of the table, problems included.

    Raises `DataError` when the storage fails.
    """
    progress = Progress("reading images", len(images.rows))

    def scan(image: str) -> ImageFacts:
        try:
            content = images.source.read(image)
            with decoded(content, max_megapixels) as opened:
                size, format = opened.size, opened.format or ""
                look = look_at(opened) if with_looks else None
        except (MissingImage, ValueError) as error:
            return ImageFacts("", 0, 0, "", str(error))
        return ImageFacts(hashlib.sha256(content).hexdigest(), *size, format, "", look)

    names = list(images.rows["image"])
    facts = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), _AT_ONCE):
            for fact in pool.map(scan, names[start : start + _AT_ONCE]):
                facts.append(fact)
                progress.advance()
    return facts


def unreadable(images: ImageList, facts: list[ImageFacts]) -> pa.Table:
    """The images that could not be used and why, in the columns of `UNREADABLE_IMAGES`."""
    found = [(image, fact.problem) for image, fact in zip(images.rows["image"], facts, strict=True) if fact.problem]
    return pa.table(
        {
            "image": pa.array([image for image, _ in found], pa.string()),
            "reason": pa.array([reason for _, reason in found], pa.string()),
        }
    )


def refuse_too_many_unreadable(problems: pa.Table, total: int, max_fraction: float) -> None:
    """Raise `DataError` naming the unreadable images when they are more than the recipe allows."""
    count = problems.num_rows
    if count <= max_fraction * total:
        return
    shown = [f"{row['image']}: {row['reason']}" for row in problems.slice(0, 20).to_pylist()]
    more = [f".. and {count - 20} more"] if count > 20 else []
    raise DataError(
        "\n  ".join(
            [
                f"{count} of {total} images are missing or unreadable, data.max_unreadable_fraction allows"
                f" {max_fraction:g}; repair them, or raise the limit to leave them out",
                *shown,
                *more,
            ]
        )
    )
