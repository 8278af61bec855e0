"""Random choices that depend on names, not on order: shards, resumed runs and longer tables draw the same."""

import hashlib

import numpy as np
import pyarrow as pa


def draw(purpose: str, image: str) -> float:
    """A uniform number in [0, 1) that depends only on the purpose (seed included) and the image's name."""
    digest = hashlib.sha256(f"{purpose}:{image}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def draw_rows(table: pa.Table, fraction: float, purpose: str) -> pa.Table:
    """A share of the rows (at least one), rounded, chosen by their `image` and kept in the table's order."""
    if fraction == 1.0:
        return table
    draws = [draw(purpose, image) for image in table["image"].to_pylist()]
    count = max(1, round(fraction * len(draws)))
    return table.take(pa.array(np.sort(np.argsort(draws, kind="stable")[:count])))
