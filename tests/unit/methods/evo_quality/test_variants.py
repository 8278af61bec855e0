"""Variants: each says what was done to which image, can be made again, and gets worse from level to level."""

import hashlib
import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline_lib.demo.vision import draw_practice
from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.distortions import DISTORTIONS, LEVELS, distorted
from pipeline_lib.methods.evo_quality.pairs import draw_pairs
from pipeline_lib.methods.evo_quality.variants import make_variants
from pipeline_lib.progress import Progress

PHOTO = Image.fromarray(draw_practice(3, 2, split="test").images[0])


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_each_level_is_farther_from_the_image(distortion: str) -> None:
    def distance(level: int) -> float:
        found = [distorted(PHOTO, distortion, level, np.random.default_rng(at)) for at in range(6)]
        assert all(image.size == PHOTO.size and image.mode == "RGB" for image in found)
        return float(np.mean([np.abs(np.asarray(image, float) - np.asarray(PHOTO, float)).mean() for image in found]))

    far = [distance(level) for level in range(1, LEVELS + 1)]
    assert far[0] > 0 and far == sorted(far) and far[-1] > 1.5 * far[0]


def test_the_same_stream_gives_the_same_pixels() -> None:
    for distortion in DISTORTIONS:
        one, other = (distorted(PHOTO, distortion, 3, np.random.default_rng(1)).tobytes() for _ in range(2))
        assert one == other


def test_there_are_as_many_kinds_as_in_the_paper_and_a_recipe_can_draw_from_fewer() -> None:
    assert len(DISTORTIONS) == 35
    few = make_variants(images(["a.jpg"]), lambda *_: PHOTO, 10, 1, Progress("", 1), kinds=2)
    assert set(few["what"].to_pylist()) == set(DISTORTIONS[:2]) and len(few) == 10


def images(names: list[str]) -> pa.Table:
    return pa.table({"image": names, "image_sha256": [hashlib.sha256(name.encode()).hexdigest() for name in names]})


def make(names: list[str], per_image: int = 4, seed: int = 1) -> pa.Table:
    return make_variants(images(names), lambda *_: PHOTO, per_image, seed, Progress("", len(names)))


def test_the_table_says_what_was_done_and_holds_the_files() -> None:
    made = make(["a.jpg", "b.jpg"])
    for row in made.to_pylist():
        assert row["image"] == row["file"]["path"] == f"made:{row['what']}-{row['level']}:{row['source']}"
        assert hashlib.sha256(row["file"]["bytes"]).hexdigest() == row["image_sha256"]
        assert Image.open(io.BytesIO(row["file"]["bytes"])).size == (row["width_px"], row["height_px"])
    assert Counter(made["source"].to_pylist()) == {"a.jpg": 4, "b.jpg": 4}
    assert len(set(made["image"].to_pylist())) == 8
    # An image's variants do not depend on the others.
    assert make(["b.jpg"]).equals(made.slice(4)) and not make(["b.jpg"], seed=2).equals(made.slice(4))


def test_an_image_that_is_called_like_a_variant_is_refused() -> None:
    with pytest.raises(DataError, match="must not begin with made:"):
        make(["made:a.jpg"])


def test_a_share_of_the_pairs_are_variants_of_one_image() -> None:
    names = [f"{at}.jpg" for at in range(10)]
    rows = images(names).append_column("width_px", pa.array([96] * 10)).append_column("height_px", pa.array([96] * 10))
    drawn = draw_pairs(rows, 40, name="round-02", seed=0, variants=make(names).drop_columns(["file"]), fraction=0.25)
    kinds = Counter(drawn["kind"].to_pylist())
    assert kinds == {"images": 30, "variants": 10}
    for row in drawn.to_pylist():
        sources = {image["image"].rpartition(":")[2] for image in row["images"]}
        assert (len(sources) == 1) == (row["kind"] == "variants")
        assert all(image["image"].startswith("made:") == (row["kind"] == "variants") for image in row["images"])
