"""Images that look the same in different splits: a perceptual hash of each image, and pairs of hashes that are near.

A hash is 64 bits. It changes little when an image is scaled, compressed again, or made a little brighter, and not at
all by its orientation: quarter turns and mirror images are compared too. It does not find crops, and turns by other
angles only up to about one degree.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from pipeline_lib.errors import DataError
from pipeline_lib.progress import Progress

BITS = 64

ORIENTATIONS = 8
"""Quarter turns of an image and of its mirror image."""

_SIDE_PX = 32
_FREQUENCIES = 9  # 8 x 8 and one more row and column, whose first ones, the means, are left out
_FLATTEST = 1.0  # grey levels; the frequencies of an image without structure are rounding alone

Hashes = NDArray[np.uint64]
"""Shape (n, 8): the hash of each image in its eight orientations, its own first. All 0: an image without structure."""


_SHOWN = 5

_AT_ONCE = 1024  # images in the threads' queue


class NearDuplicate(NamedTuple):
    """Two images by their places, the first one before the second, and the bits in which their hashes differ."""

    first: int
    second: int
    bits: int


def perceptual_hashes(image: Image.Image) -> NDArray[np.uint64]:
    """The hashes of an image in its eight orientations, shape (8,), its own first; all 0 without structure.

    Signs of the 64 lowest frequencies of its brightness against their median (pHash; Zauner, 2010), on 32 x 32 pixels.
    Turning an image only exchanges frequencies and their signs, so one transform serves all orientations.
    """
    small = image.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    waves = fft.dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    if np.abs(waves[1:, 1:]).max() < _FLATTEST:
        return np.zeros(ORIENTATIONS, dtype=np.uint64)
    signs = (-1.0) ** np.arange(_FREQUENCIES)
    turned = []
    for of in (waves, waves.T):
        for rows in (np.ones(_FREQUENCIES), signs):
            for columns in (np.ones(_FREQUENCIES), signs):
                turned.append(_hash((of * rows[:, None] * columns[None, :])[1:, 1:]))
    return np.array(turned, dtype=np.uint64)


def hash_images(names: Sequence[str], digests: Sequence[str], open_image: Callable[[str, str], Image.Image]) -> Hashes:
    """The hashes of images that `open_image(name, digest)` opens, in their order."""
    progress = Progress("hashing images", len(names))
    found = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            for hashes in pool.map(lambda *image: perceptual_hashes(open_image(*image)), names[part], digests[part]):
                found.append(hashes)
                progress.advance()
    return np.stack(found) if found else np.zeros((0, ORIENTATIONS), dtype=np.uint64)


def near_duplicates(hashes: Hashes, splits: Sequence[str], *, near_bits: int) -> list[NearDuplicate]:
    """Pairs of images in different splits whose hashes differ in at most `near_bits` bits, in any orientation.

    Images without structure are left out. The bits are cut into `near_bits` + 1 bands: two hashes that differ in no
    more bits than that have at least one band in common, so only images that share a band are compared.
    """
    places = np.flatnonzero(hashes[:, 0] != 0)
    _, split = np.unique(np.asarray(splits, dtype=str), return_inverse=True)
    found = [np.zeros((0, 3), dtype=np.int64)]
    for one, other in _sharing_a_band(hashes, places, near_bits):
        apart = split[one] != split[other]
        one, other = one[apart], other[apart]
        bits = np.bitwise_count(hashes[other, 0][:, None] ^ hashes[one]).min(axis=1)
        pairs = np.stack([np.minimum(one, other), np.maximum(one, other), bits], axis=1)
        found.append(np.unique(pairs[bits <= near_bits], axis=0))
    pairs = np.unique(np.concatenate(found), axis=0)  # sorted, so the fewest bits of a pair come first
    first = np.unique(pairs[:, :2], axis=0, return_index=True)[1]
    return [NearDuplicate(*row) for row in pairs[first].tolist()]


def share_of_evaluated(pairs: Sequence[NearDuplicate], splits: Sequence[str]) -> float:
    """Share of the validation and test images that are in a pair; 0 for none."""
    evaluated = {place for place, split in enumerate(splits) if split in ("val", "test")}
    found = {place for pair in pairs for place in pair[:2]} & evaluated
    return len(found) / len(evaluated) if evaluated else 0.0


def too_many_near_duplicates(
    pairs: Sequence[NearDuplicate], images: Sequence[str], splits: Sequence[str], most: float | None, near_bits: int
) -> str:
    """The problem in a sentence when more than the share `most` of validation and test is in a pair; else empty."""
    share = share_of_evaluated(pairs, splits)
    if most is None or share <= most:
        return ""
    shown = [f"{images[a]} ({splits[a]}) and {images[b]} ({splits[b]}), {bits} bits" for a, b, bits in pairs[:_SHOWN]]
    more = f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
    return (
        f"{share:.2%} of the validation and test images look like an image of another split (hashes differ in at most"
        f" data.near_duplicate_bits = {near_bits} of {BITS} bits); data.max_near_duplicate_fraction allows {most:g}:"
        f" {'; '.join(shown)}{more}. Put such images into one group (data.group_column) or remove them; look at them"
        " with `whyscore check-data`, and raise the limit if they are different images"
    )


def refuse_near_duplicates(
    pairs: Sequence[NearDuplicate], images: Sequence[str], splits: Sequence[str], most: float | None, near_bits: int
) -> None:
    """Raise `DataError` when more than the share `most` of validation and test has a near-duplicate elsewhere."""
    if problem := too_many_near_duplicates(pairs, images, splits, most, near_bits):
        raise DataError(problem)


def _hash(waves: NDArray[np.float64]) -> int:
    above = (waves > np.median(waves)).ravel()
    return int.from_bytes(np.packbits(above).tobytes())


def _sharing_a_band(
    hashes: Hashes, places: NDArray[np.intp], near_bits: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs (turned image, upright image) that have a band of bits in common, in blocks."""
    edges = np.linspace(0, BITS, near_bits + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        mask = np.uint64(((1 << int(high - low)) - 1) << int(low))
        upright = hashes[places, 0] & mask
        order = np.argsort(upright, kind="stable")
        ranked = upright[order]
        for orientation in range(ORIENTATIONS):
            turned = hashes[places, orientation] & mask
            first, last = (np.searchsorted(ranked, turned, side=side) for side in ("left", "right"))  # type: ignore[call-overload]
            for start, end in _blocks(last - first):
                counts = (last - first)[start:end]
                one = np.repeat(places[start:end], counts)
                within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                yield one, places[order[np.repeat(first[start:end], counts) + within]]


def _blocks(counts: NDArray[np.intp], most: int = 4_000_000) -> Iterator[tuple[int, int]]:
    """Ranges of rows with about `most` pairs, so that memory stays bounded where many images share a band."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield start, end
        start = end
