"""Images that look the same in different splits: perceptual hashes find pairs, and their brightness confirms them.

A hash is 64 bits. It changes little when an image is scaled, compressed again, or made a little brighter, and its
orientation does not matter: quarter turns and mirror images are compared too. Simple images can have near hashes by
chance, so the brightness of a pair must agree as well. Crops, and turns by more than about a degree, are not found.
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

LEAST_CORRELATION = 0.95
"""Least correlation of the brightness of two images, on 16 x 16 pixels, for them to look the same."""

_HASHED_PX, _COMPARED_PX = 32, 16
_FREQUENCIES = 9  # 8 x 8, and one more row and column for the means, which are left out
_FLATTEST = 1.0  # the frequencies of an image without structure are rounding alone
_SHOWN = 5
_AT_ONCE = 1024  # images in the threads' queue
_PAIRS_AT_ONCE = 2_000_000


class Looks(NamedTuple):
    """What is compared of n images.

    An image without structure has hashes 0, and looks like no other; so does one that cannot be read.
    """

    hashes: NDArray[np.uint64]  # (n, 8): of each orientation, the upright one first
    brightness: NDArray[np.float32]  # (n, 16, 16), mean 0 and norm 1


class NearDuplicate(NamedTuple):
    """Two images by their places, the first one before the second."""

    first: int
    second: int
    bits: int  # in which their hashes differ, in the orientation where they are nearest
    correlation: float  # of their brightness, in the orientation where it is highest


def look_at(image: Image.Image) -> Looks:
    """One image.

    The hash has the signs of the 64 lowest frequencies of the brightness against their median (pHash; Zauner, 2010).
    Turning an image only exchanges frequencies and their signs, so one transform serves all orientations.
    """
    grey = image.convert("L")
    small = np.asarray(grey.resize((_HASHED_PX, _HASHED_PX), Image.Resampling.BOX), dtype=np.float64)
    waves = fft.dctn(small, norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    if np.abs(waves[1:, 1:]).max() < _FLATTEST:
        return no_look(1)
    signs = (-1.0) ** np.arange(_FREQUENCIES)
    ways = itertools.product((waves, waves.T), (np.ones(_FREQUENCIES), signs), (np.ones(_FREQUENCIES), signs))
    hashes = [_hash((turned * rows[:, None] * columns)[1:, 1:]) for turned, rows, columns in ways]
    smaller = small.reshape(_COMPARED_PX, 2, _COMPARED_PX, 2).mean(axis=(1, 3))
    smaller -= smaller.mean()
    smaller /= np.linalg.norm(smaller) or 1.0
    return Looks(np.array([hashes], dtype=np.uint64), smaller[None].astype(np.float32))


def no_look(n: int) -> Looks:
    """`n` images that look like no other."""
    return Looks(
        np.zeros((n, ORIENTATIONS), dtype=np.uint64), np.zeros((n, _COMPARED_PX, _COMPARED_PX), dtype=np.float32)
    )


def joined(looks: Sequence[Looks]) -> Looks:
    """Several images as one value."""
    return Looks(*(np.concatenate(parts) for parts in zip(no_look(0), *looks, strict=True)))


def look_at_images(
    names: Sequence[str], digests: Sequence[str], open_image: Callable[[str, str], Image.Image]
) -> Looks:
    """Images that `open_image(name, digest)` opens, in their order."""
    progress = Progress("hashing images", len(names))
    found = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            for look in pool.map(lambda *image: look_at(open_image(*image)), names[part], digests[part]):
                found.append(look)
                progress.advance()
    return joined(found)


def near_duplicates(looks: Looks, splits: Sequence[str], *, near_bits: int) -> list[NearDuplicate]:
    """Pairs of images in different splits that look the same in some orientation.

    Their hashes differ in at most `near_bits` bits, and the correlation of their brightness is at least
    `LEAST_CORRELATION`. The bits are cut into `near_bits` + 1 bands: two hashes that differ in no more bits than that
    have at least one band in common, so only images that share a band are compared.
    """
    found = [np.zeros((0, 3), dtype=np.int64)]
    _, split = np.unique(np.asarray(splits, dtype=str), return_inverse=True)
    for one, other in _sharing_a_band(looks.hashes, np.asarray(splits, dtype=str) != "train", near_bits):
        apart = split[one] != split[other]
        one, other = one[apart], other[apart]
        bits = np.bitwise_count(looks.hashes[other, 0][:, None] ^ looks.hashes[one]).min(axis=1)
        pairs = np.stack([np.minimum(one, other), np.maximum(one, other), bits], axis=1)
        found.append(np.unique(pairs[bits <= near_bits], axis=0))
    pairs = np.unique(np.concatenate(found), axis=0)  # sorted, so the fewest bits of a pair come first
    pairs = pairs[np.unique(pairs[:, :2], axis=0, return_index=True)[1]]
    correlations = _correlations(looks.brightness, pairs[:, 0], pairs[:, 1])
    return [
        NearDuplicate(first, second, bits, correlation)
        for (first, second, bits), correlation in zip(pairs.tolist(), correlations.tolist(), strict=True)
        if correlation >= LEAST_CORRELATION
    ]


def share_of_evaluated(pairs: Sequence[NearDuplicate], splits: Sequence[str]) -> float:
    """Share of the validation and test images that are in a pair; 0 for none."""
    evaluated = {place for place, split in enumerate(splits) if split in ("val", "test")}
    found = {place for pair in pairs for place in pair[:2]} & evaluated
    return len(found) / len(evaluated) if evaluated else 0.0


def pair_text(pair: NearDuplicate, images: Sequence[str], splits: Sequence[str]) -> str:
    """The two images with their splits, and how near they are."""
    first, second = (f"{images[place]} ({splits[place] or 'no split'})" for place in pair[:2])
    return f"{first} ~ {second}, {pair.bits} bits, correlation {pair.correlation:.3f}"


def too_many_near_duplicates(
    pairs: Sequence[NearDuplicate], images: Sequence[str], splits: Sequence[str], most: float | None
) -> str:
    """The problem in a sentence when more than the share `most` of validation and test is in a pair; else empty."""
    share = share_of_evaluated(pairs, splits)
    if most is None or share <= most:
        return ""
    shown = "; ".join(pair_text(pair, images, splits) for pair in pairs[:_SHOWN])
    more = f"; and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
    return (
        f"{100 * share:.3g} % of the validation and test images look like an image of another split,"
        f" data.max_near_duplicate_fraction allows {100 * most:.3g} %: {shown}{more}. Put such images into one group"
        " (data.group_column) or remove them; if they are different images, raise the limit (`whyscore check-data`"
        " lists more of them)"
    )


def refuse_near_duplicates(
    pairs: Sequence[NearDuplicate], images: Sequence[str], splits: Sequence[str], most: float | None
) -> None:
    """Raise `DataError` when more than the share `most` of validation and test looks like another split's image."""
    if problem := too_many_near_duplicates(pairs, images, splits, most):
        raise DataError(problem)


def _hash(waves: NDArray[np.float64]) -> int:
    above = (waves > np.median(waves)).ravel()
    return int.from_bytes(np.packbits(above).tobytes())


def _sharing_a_band(
    hashes: NDArray[np.uint64], evaluated: NDArray[np.bool_], near_bits: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs (image of validation or test in any orientation, any upright image) that share a band, in blocks."""
    there = hashes[:, 0] != 0
    asked, places = np.flatnonzero(there & evaluated), np.flatnonzero(there)
    edges = np.linspace(0, BITS, near_bits + 2).astype(int).tolist()
    for low, high in itertools.pairwise(edges):
        mask = np.uint64(((1 << (high - low)) - 1) << low)
        order = np.argsort(hashes[places, 0] & mask, kind="stable")
        ranked = hashes[places[order], 0] & mask
        for orientation in range(ORIENTATIONS):
            turned = hashes[asked, orientation] & mask
            first = np.searchsorted(ranked, turned, side="left")
            counts = np.searchsorted(ranked, turned, side="right") - first
            for part in _blocks(counts):
                total = counts[part].sum()
                within = np.arange(total) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
                one = np.repeat(asked[part], counts[part])
                yield one, places[order[np.repeat(first[part], counts[part]) + within]]


def _blocks(counts: NDArray[np.intp]) -> Iterator[slice]:
    """Rows with about `_PAIRS_AT_ONCE` pairs, so that memory stays bounded where many images share a band."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        yield slice(start, end)
        start = end


def _correlations(
    brightness: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The highest correlation of each pair over the orientations of its first image."""
    best = np.full(len(first), -1.0)
    for start in range(0, len(first), _PAIRS_AT_ONCE // 100):
        part = slice(start, start + _PAIRS_AT_ONCE // 100)
        one, other = brightness[first[part]], brightness[second[part]]
        for turned in (one, one.transpose(0, 2, 1)):
            for down, right in itertools.product((1, -1), (1, -1)):
                found = np.einsum("nij,nij->n", turned[:, ::down, ::right], other)
                best[part] = np.maximum(best[part], found)
    return best
