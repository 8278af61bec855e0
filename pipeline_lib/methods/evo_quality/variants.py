"""Distorted variants of images, as files in a table.

Which ones follows from the seed and the name of the image, so that each can be made again.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from PIL.Image import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.distortions import DISTORTIONS, LEVELS, distorted
from pipeline_lib.progress import Progress
from pipeline_lib.tables.images import MADE_IMAGES, MADE_PREFIX


def make_variants(
    images: pa.Table,
    open_image: Callable[[str, str], Image],
    per_image: int,
    seed: int,
    progress: Progress,
    kinds: int = len(DISTORTIONS),
) -> pa.Table:
    """`per_image` rows of `MADE_IMAGES` for each image, in the size in which the model sees it.

    They are drawn from the first `kinds` of `DISTORTIONS` in all levels.

    Raises `DataError` for an image whose name begins like that of a variant.
    """
    choices = [(distortion, level) for distortion in DISTORTIONS[:kinds] for level in range(1, LEVELS + 1)]
    rows = []
    for image in images.select(["image", "image_sha256"]).to_pylist():
        name = image["image"]
        if name.startswith(MADE_PREFIX):
            raise DataError(f"image {name}: a name must not begin with {MADE_PREFIX}; rename the file")
        rng = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])
        opened = open_image(name, image["image_sha256"])
        for chosen in sorted(rng.choice(len(choices), min(per_image, len(choices)), replace=False).tolist()):
            distortion, level = choices[chosen]
            rows.append(_row(distorted(opened, distortion, level, rng), name, distortion, level))
        progress.advance()
    return pa.Table.from_pylist(rows, schema=MADE_IMAGES.schema)


def _row(variant: Image, source: str, distortion: str, level: int) -> dict[str, object]:
    file = io.BytesIO()
    variant.save(file, "PNG")
    content, name = file.getvalue(), f"{MADE_PREFIX}{distortion}-{level}:{source}"
    return {
        "image": name,
        "image_sha256": hashlib.sha256(content).hexdigest(),
        "width_px": variant.width,
        "height_px": variant.height,
        "source": source,
        "what": distortion,
        "level": level,
        "file": {"bytes": content, "path": name},
    }
