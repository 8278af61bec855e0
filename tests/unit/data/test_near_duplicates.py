"""Near-duplicates: what a perceptual hash survives, that the search finds every near pair, and the limit."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from pipeline_lib.data.near_duplicates import (
    BITS,
    Looks,
    NearDuplicate,
    joined,
    look_at,
    look_at_images,
    near_duplicates,
    refuse_near_duplicates,
    share_of_evaluated,
)
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.errors import DataError

Change = Callable[[Image.Image], Image.Image]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Forty photographs and drawn scenes."""
    folder = tmp_path_factory.mktemp("pictures")
    write_dataset(folder / "data", seed=3, train=20, val=10, test=10)
    return [Image.open(path).convert("RGB") for path in sorted(Path(folder / "data/images").iterdir())]


def jpeg(quality: int) -> Change:
    def save(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return save


def resized(side_px: int) -> Change:
    return lambda image: image.resize((side_px, side_px), Image.Resampling.BICUBIC)


def turned(how: Image.Transpose) -> Change:
    return lambda image: image.transpose(how)


SAME: dict[str, tuple[Change, float]] = {  # and the share of images that must be found with eight bits
    "twice the size": (resized(192), 1.0),
    "half the size": (resized(48), 0.9),
    "JPEG of quality 20": (jpeg(20), 0.97),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 0.95),
    "grey": (lambda image: image.convert("L"), 1.0),
    **{how.name: (turned(how), 1.0) for how in Image.Transpose},
    "turned by a degree": (lambda image: image.rotate(1, Image.Resampling.BICUBIC), 0.7),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_picture_in_another_form_is_near(name: str, pictures: list[Image.Image]) -> None:
    change, share = SAME[name]
    found = [len(pairs_of(picture, change(picture))) for picture in pictures]
    assert np.mean(found) >= share


def pairs_of(one: Image.Image, other: Image.Image) -> list[NearDuplicate]:
    return near_duplicates(joined([look_at(one), look_at(other)]), ["train", "test"], near_bits=8)


def test_different_pictures_are_not_near(pictures: list[Image.Image]) -> None:
    looks = joined([look_at(picture) for picture in pictures])
    splits = ["train", "test"] * (len(pictures) // 2)
    assert near_duplicates(looks, splits, near_bits=8) == []


def test_brightness_must_agree_as_well(pictures: list[Image.Image]) -> None:
    look = look_at(pictures[0])
    other = look._replace(brightness=look_at(pictures[1]).brightness)
    assert near_duplicates(joined([look, other]), ["train", "test"], near_bits=8) == []
    (pair,) = near_duplicates(joined([look, look]), ["train", "test"], near_bits=0)
    assert (pair.first, pair.second, pair.bits) == (0, 1, 0) and pair.correlation == pytest.approx(1)
    assert near_duplicates(joined([look, look]), ["train", "train"], near_bits=8) == []


def test_an_image_without_structure_is_near_to_none() -> None:
    images = [Image.new("RGB", (40, 40), (grey, grey, grey)) for grey in (7, 7, 200)]
    for image in images[:2]:
        image.putpixel((3, 5), (8, 8, 8))
    flat = joined([look_at(image) for image in images])
    assert not flat.hashes.any() and near_duplicates(flat, ["train", "val", "test"], near_bits=8) == []


@pytest.mark.parametrize("near_bits", [0, 1, 8, 12])
def test_the_search_finds_exactly_the_pairs_that_comparing_all_finds(near_bits: int) -> None:
    rng = np.random.default_rng(near_bits)
    hashes = rng.integers(1, 2**63, (300, 8), dtype=np.uint64)
    for at in range(1, 300, 3):  # near copies, some of them of a turned image
        flips = sum(1 << int(bit) for bit in rng.choice(BITS, rng.integers(0, 15), replace=False))
        hashes[at, 0] = hashes[at - 1, int(rng.integers(8))] ^ np.uint64(flips)
    splits = rng.choice(["train", "val", "test"], 300).tolist()
    expected = []
    for a in range(300):
        for b in range(a + 1, 300):
            asked = [(x, y) for x, y in ((a, b), (b, a)) if splits[y] != "train"]  # y is turned
            ways = [int(np.bitwise_count(hashes[x, 0] ^ hashes[y]).min()) for x, y in asked]
            if splits[a] != splits[b] and min(ways) <= near_bits:
                expected.append((a, b, min(ways)))
    found = near_duplicates(Looks(hashes, alike(300)), splits, near_bits=near_bits)
    assert [tuple(pair[:3]) for pair in found] == expected and expected


def alike(n: int) -> NDArray[np.float32]:
    """The same brightness for all images."""
    one = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 16, 16)
    return np.repeat(one / np.linalg.norm(one), n, axis=0)


def test_a_thousand_copies_among_ten_thousand_images() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**63, (10_000, 8), dtype=np.uint64)
    hashes[:1000, :] = hashes[:1, :]  # the same picture a thousand times
    splits = ["train" if at % 5 else "test" for at in range(10_000)]
    pairs = near_duplicates(Looks(hashes, alike(10_000)), splits, near_bits=8)
    assert len(pairs) == 200 * 800


def test_looks_are_in_the_order_of_the_images(pictures: list[Image.Image]) -> None:
    names = [str(at) for at in range(len(pictures))]
    found = look_at_images(names, ["digest"] * len(names), lambda name, digest: pictures[int(name)])
    expected = joined([look_at(picture) for picture in pictures])
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))
    assert look_at_images([], [], lambda name, digest: pictures[0]).hashes.shape == (0, 8)


def test_the_limit_counts_images_of_validation_and_test() -> None:
    images, splits = [f"{at}.jpg" for at in range(6)], ["train", "train", "val", "val", "test", "test"]
    pairs = [NearDuplicate(0, 2, 0, 1.0), NearDuplicate(1, 2, 3, 0.97), NearDuplicate(2, 4, 1, 0.99)]
    assert share_of_evaluated(pairs, splits) == 0.5
    refuse_near_duplicates(pairs, images, splits, 0.5)
    refuse_near_duplicates(pairs, images, splits, None)
    with pytest.raises(DataError) as raised:
        refuse_near_duplicates(pairs, images, splits, 0.4)
    for part in ("50 %", "0.jpg (train) ~ 2.jpg (val), 0 bits", "max_near_duplicate_fraction", "group_column"):
        assert part in str(raised.value)
