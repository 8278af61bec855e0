"""A run made of drawn photographs and invented answers, put through the real metrics and the real judge."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw
from report_run import invented_run

from pipeline_lib.report.contents import RunResults


@pytest.fixture(scope="session")
def run() -> RunResults:
    """Three iterations; the consistency branch of the second has collapsed."""
    return invented_run()


@pytest.fixture(scope="session")
def open_image() -> Callable[[str, str], Image.Image]:
    """A photograph for every name."""
    return drawn_photograph


def drawn_photograph(image: str, image_sha256: str) -> Image.Image:
    rng = np.random.default_rng(int(image_sha256[:8], 16))
    size = [(448, 300), (300, 448), (400, 400)][int(rng.integers(3))]
    top, bottom = rng.integers(90, 255, 3), rng.integers(20, 160, 3)
    ramp = np.linspace(0, 1, size[1])[:, None, None]
    pixels = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (size[1], size[0], 3)).astype(np.uint8)
    picture = Image.fromarray(pixels.copy())
    brush = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, r = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(15, 90)
        brush.ellipse([x - r, y - r, x + r, y + r], fill=tuple(int(c) for c in rng.integers(0, 255, 3)))
    return picture


def metric_replaced(results: RunResults, model: str, metric: str, estimate: tuple[float, float, float]) -> RunResults:
    """The run with another figure for one model on test."""
    models = []
    for found in results.models:
        rows: list[dict[str, Any]] = found.metrics.to_pylist()
        for row in rows:
            if found.name == model and row["metric"] == metric and row["split"] == "test":
                row |= dict(zip(("value", "low", "high"), estimate, strict=True))
        models.append(found._replace(metrics=pa.Table.from_pylist(rows, schema=found.metrics.schema)))
    return results._replace(models=models)
