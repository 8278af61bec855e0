"""The pairs of a round: two images at random, and from some round on two variants of one image."""

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_lib.config.base import Split
from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.tables import PAIRS
from pipeline_lib.tables.images import IMAGES

LEAST_IMAGES: dict[Split, int] = {"train": 2, "val": 2}
"""Fewer images have no pair."""

HELD_OUT = "held-out"
"""Instead of a round's number: pairs that no round trains on."""


def draw_pairs(
    images: pa.Table, count: int, *, name: str, seed: int, variants: pa.Table | None = None, fraction: float = 0.0
) -> pa.Table:
    """`count` different pairs as `PAIRS`, a share `fraction` of them two variants of one image.

    An image is only paired with another file of another content. Raises `DataError` when there are fewer pairs.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    of_variants = round(count * fraction) if variants is not None else 0
    found = [("images", pair) for pair in _of_images(_records(images), count - of_variants, rng)]
    if variants is not None and of_variants:
        found += [("variants", pair) for pair in _of_variants(variants, of_variants, rng)]
    order = rng.permutation(len(found))
    rows = [
        {"pair": f"{name}/{at:06d}", "images": list(found[place][1]), "kind": found[place][0]}
        for at, place in enumerate(order)
    ]
    return pa.Table.from_pylist(rows, schema=PAIRS.schema)


Pair = tuple[dict[str, Any], dict[str, Any]]


def _records(images: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = images.select(IMAGES.schema.names).to_pylist()
    return found


def _of_images(images: list[dict[str, Any]], count: int, rng: np.random.Generator) -> list[Pair]:
    most = len(images) * (len(images) - 1) // 2
    if count > most:
        raise DataError(
            f"{len(images)} images have {most} pairs, {count} are asked for; set pairs.count (or pairs.held_out) lower,"
            " or give more images"
        )
    found: dict[tuple[int, int], Pair] = {}
    tried = 0
    while len(found) < count:
        if (tried := tried + 1) > 100 * count + 10_000:
            raise DataError(
                f"only {len(found)} of {count} pairs of different images were found among {len(images)} files; are many"
                " of them copies of each other?"
            )
        one, other = (int(at) for at in rng.choice(len(images), 2, replace=False))
        key = (min(one, other), max(one, other))
        if key not in found and images[one]["image_sha256"] != images[other]["image_sha256"]:
            found[key] = (images[one], images[other])
    return list(found.values())


def _of_variants(variants: pa.Table, count: int, rng: np.random.Generator) -> list[Pair]:
    of_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record, source in zip(_records(variants), variants["source"].to_pylist(), strict=True):
        of_source[source].append(record)
    every = [
        (one, other)
        for records in of_source.values()
        for at, one in enumerate(records)
        for other in records[at + 1 :]
        if one["image_sha256"] != other["image_sha256"]
    ]
    if count > len(every):
        raise DataError(
            f"the variants have {len(every)} pairs, {count} are asked for; raise pairs.variants.per_image, or lower"
            " pairs.variants.fraction"
        )
    chosen = rng.choice(len(every), count, replace=False)
    swapped = rng.random(count) < 0.5
    return [every[at][::-1] if swap else every[at] for at, swap in zip(chosen, swapped, strict=True)]
