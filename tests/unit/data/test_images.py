"""Image files of every kind come out as upright 8-bit RGB, or are refused with a sentence."""

import hashlib
import io
import os
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline_lib.config.base import Data
from pipeline_lib.data import images
from pipeline_lib.data.images import decoded, open_image, scan_images
from pipeline_lib.data.sources import LocalFolder
from pipeline_lib.data.table import ImageList, check_table
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.discretize import discretize_scores
from pipeline_lib.methods.self_improve.tables import BINS, IMAGES
from pipeline_lib.tables.images import UNREADABLE_IMAGES
from pipeline_lib.tables.table import conform
from tests.decoding import decode

RED, HALF_RED_ON_WHITE = (255, 0, 0), (255, 127, 127)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def centre(content: bytes) -> tuple[int, ...]:
    image = decode(content, 100)
    assert image.mode == "RGB"
    return tuple(image.getpixel((image.width // 2, image.height // 2)))


def grey_16(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=np.uint16))


def test_every_mode_becomes_rgb() -> None:
    palette = Image.new("RGB", (8, 8), RED).quantize(4)
    assert centre(encode(palette)) == RED
    transparent = Image.new("P", (8, 8), 0)
    transparent.putpalette([0, 0, 0, 255, 0, 0])
    assert centre(encode(transparent, transparency=0)) == (255, 255, 255)
    assert centre(encode(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))) == pytest.approx(HALF_RED_ON_WHITE, abs=1)
    assert centre(encode(Image.new("LA", (8, 8), (0, 0)))) == (255, 255, 255)
    assert centre(encode(Image.new("LA", (8, 8), (0, 255)))) == (0, 0, 0)
    assert centre(encode(Image.new("L", (8, 8), 77))) == (77, 77, 77)
    assert centre(encode(Image.new("1", (8, 8), 1))) == (255, 255, 255)
    assert centre(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")) == pytest.approx(RED, abs=12)
    assert centre(encode(Image.new("RGB", (1, 1), RED))) == RED
    assert centre(encode(Image.new("RGB", (8, 8), RED), "WEBP", lossless=True)) == RED
    assert centre(encode(Image.new("RGB", (8, 8), RED), "GIF")) == RED


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    image = decode(encode(grey_16([[0, 32768, 65535]])), 100)
    assert [image.getpixel((x, 0))[0] for x in range(3)] == pytest.approx([0, 128, 255], abs=1)
    dark = decode(encode(grey_16([[0, 257, 514]])), 100)
    assert [dark.getpixel((x, 0))[0] for x in range(3)] == [0, 1, 2]  # a dark picture stays dark


def test_cmyk_photographs_have_their_colours() -> None:
    """Photoshop writes CMYK inverted and says so with an Adobe marker; without it the inks are as they are meant."""
    content = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in content and centre(content) == pytest.approx(RED, abs=12)
    tiff = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF")
    assert centre(tiff) == pytest.approx(RED, abs=1)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("MPO", {})):
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert centre(content) == pytest.approx(RED, abs=3), kind


def test_other_depths_and_formats() -> None:
    deep = np.zeros((4, 4, 3), np.uint16)
    deep[..., 0] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    assert centre(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)) == RED
    assert centre(encode(grey_16([[32768] * 4] * 4), "TIFF")) == pytest.approx((128,) * 3, abs=1)
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    scaled = decode(encode(floats, "TIFF"), 100)
    assert [scaled.getpixel((x, 0))[0] for x in range(3)] == pytest.approx([0, 128, 255], abs=1)
    assert centre(encode(Image.new("RGB", (16, 16), RED), "AVIF", quality=100)) == pytest.approx(RED, abs=12)
    assert centre(encode(Image.new("RGB", (16, 16), RED), "JPEG2000")) == RED
    assert decode(encode(Image.new("RGB", (8, 8)), "BMP"), 100).format == "BMP"


def test_an_image_of_just_the_allowed_size_is_read() -> None:
    assert decode(encode(Image.new("1", (1000, 1000))), 1.0).size == (1000, 1000)
    with pytest.raises(ValueError, match="1001x1000 px is over"):
        decode(encode(Image.new("1", (1001, 1000))), 1.0)


def test_threads_hold_a_limited_number_of_pixels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PIXELS_AT_ONCE", 300)
    monkeypatch.setattr(images, "_space", images._Space(300))
    small, damaged, large = encode(Image.new("RGB", (10, 10))), png_of(10, 10), encode(Image.new("RGB", (30, 30)))
    held, most, lock = 0, 0, threading.Lock()

    def use(content: bytes) -> None:
        nonlocal held, most
        with decoded(content, 100) as image:
            pixels = min(image.width * image.height, 300)
            with lock:
                held += pixels
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= pixels

    with ThreadPoolExecutor(8) as pool:
        uses = [pool.submit(use, content) for content in [small, damaged, large, small] * 25]
        assert sum(use.exception() is not None for use in uses) == 25  # which give their space back
    assert most == 300


def test_small_images_do_not_overtake_a_large_one() -> None:
    space, served = images._Space(300), []

    def use(pixels: int) -> None:
        with space.take(pixels):
            served.append(pixels)

    with ThreadPoolExecutor(2) as pool, space.take(100):
        pool.submit(use, 300)
        while not space._turn.locked() and not served:
            time.sleep(0.001)
        pool.submit(use, 50)
        time.sleep(0.05)
        assert served == []
    assert served == [300, 50]


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "black")
    image.paste(RED, (0, 0, 10, 10))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    upright = decode(encode(image, "JPEG", exif=exif, quality=95), 100)
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2))[0] > 200 and upright.getpixel((5, 17))[0] < 50


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its data does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_what_is_no_usable_image_is_refused_with_a_sentence() -> None:
    jpeg = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "JPEG")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    progressive = encode(noise, "JPEG", progressive=True)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    for content, message in [
        (progressive[: len(progressive) // 3], "cannot be decoded: image file is truncated"),
        (encode(noise, "AVIF")[:300], "cannot be decoded|not an image file"),
        (heic, "HEIC"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (encode(noise, "EPS"), "not an image file"),  # Pillow would start a program for it
        (encode(noise, "ICO"), "not an image file"),  # may hold a larger image than it says
        (png_of(100, 1_000_001), r"is over data\.max_megapixels = 100 million"),
        (b"just text", "not an image file"),
        (b"", "not an image file"),
        (jpeg[: len(jpeg) // 2], "cannot be decoded: image file is truncated"),
        (jpeg[:20], "not an image file|cannot be decoded"),
        (png_of(50_000, 50_000), r"50000x50000 px is over data\.max_megapixels = 100"),
        (png_of(200, 200), "cannot be decoded"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode(content, 100)


def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]
    rotated = {"JPEG", "TIFF", "WEBP", "PNG"}
    files = [encode(noise, kind, **({"exif": exif} if kind in rotated else {})) for kind in kinds]
    for content in files:
        for _ in range(60):
            damaged = bytearray(content[: int(rng.integers(1, len(content) + 1))])
            for at in rng.integers(0, len(damaged), 4):
                damaged[at] = rng.integers(256)
            try:
                assert decode(bytes(damaged), 1).mode == "RGB"
            except ValueError as error:
                assert str(error)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-eight photographs, named and sized by number."""
    for n in range(28):
        Image.new("RGB", (10 + n, 30), (n, n, n)).save(tmp_path / f"{n}.png")
    return tmp_path


def image_list(folder: Path, scores: list[float] | None = None) -> ImageList:
    split = ["train"] * 12 + ["val"] * 11 + ["test"] * 5
    names = [f"{n}.png" for n in range(28)]
    rows = {"image": names, "score": scores or [float(n) for n in range(28)], "split": split, "group": names}
    return ImageList(pd.DataFrame(rows | {"mood": ["calm"] * 28}), LocalFolder(str(folder)))


def test_an_image_is_opened_resized_and_never_enlarged(folder: Path) -> None:
    digest = hashlib.sha256((folder / "21.png").read_bytes()).hexdigest()
    assert open_image(LocalFolder(str(folder)), "21.png", digest, 15, 1).size == (15, 15)
    narrow = hashlib.sha256((folder / "0.png").read_bytes()).hexdigest()
    assert open_image(LocalFolder(str(folder)), "0.png", narrow, 15, 1).size == (5, 15)
    assert open_image(LocalFolder(str(folder)), "21.png", digest, 500, 1).size == (31, 30)


def test_a_changed_or_vanished_image_is_noticed(folder: Path) -> None:
    digest = hashlib.sha256((folder / "3.png").read_bytes()).hexdigest()
    Image.new("RGB", (13, 30), "red").save(folder / "3.png")
    with pytest.raises(DataError, match=r"3\.png has changed"):
        open_image(LocalFolder(str(folder)), "3.png", digest, 15, 1)
    (folder / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png.*No such file"):
        open_image(LocalFolder(str(folder)), "3.png", digest, 15, 1)


def test_scanning_keeps_the_order_and_the_size_after_rotation(folder: Path) -> None:
    facts = scan_images(image_list(folder), 1)
    assert [fact.width_px for fact in facts] == [10 + n for n in range(28)]
    assert facts[4].sha256 == hashlib.sha256((folder / "4.png").read_bytes()).hexdigest()


def test_discretised_tables_fit_their_schemas(folder: Path) -> None:
    tables = discretize_scores(image_list(folder), 0.0, 1.0)
    images = conform(tables.images, IMAGES.schema, extra_columns=True)
    assert images.column_names == [*IMAGES.schema.names, "mood"] and images.num_rows == 28
    assert images["bin"].to_pylist()[:12] == [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9]
    assert images["bin"].to_pylist()[12:] == [9] * 16
    conform(tables.bins, BINS.schema)
    assert conform(tables.unreadable, UNREADABLE_IMAGES.schema).num_rows == 0


def test_unreadable_images_are_counted_limited_and_named(folder: Path) -> None:
    (folder / "0.png").write_text("no image")
    (folder / "13.png").unlink()
    with pytest.raises(DataError) as caught:
        discretize_scores(image_list(folder), 0.05, 1.0)
    text = str(caught.value)
    assert "2 of 28 images" in text
    assert "0.png: not an image file" in text and "13.png: No such file or directory" in text
    tables = discretize_scores(image_list(folder), 0.1, 1.0)
    unreadable = {row["image"]: row["reason"] for row in tables.unreadable.to_pylist()}
    assert list(unreadable) == ["0.png", "13.png"] and unreadable["13.png"] == "No such file or directory"
    assert tables.images.num_rows == 26


def test_edges_come_from_readable_training_images_alone(folder: Path) -> None:
    def edges(scores: list[float]) -> list[float]:
        return discretize_scores(image_list(folder, scores), 0.1, 1.0).bins["upper"].to_pylist()

    scores = [float(n) for n in range(28)]
    before = edges(scores)
    assert edges([*scores[:12], *[-1000.0] * 16]) == before  # validation and test do not count
    assert edges([1000.0, *scores[1:]]) != before
    (folder / "0.png").write_text("no image")
    assert edges([1000.0, *scores[1:]]) == edges(scores)


def test_no_split_may_be_lost_to_unreadable_images(folder: Path) -> None:
    for n in range(12, 14):
        (folder / f"{n}.png").unlink()
    with pytest.raises(DataError, match=r"2 unreadable.* 9 val image\(s\).* 10"):
        discretize_scores(image_list(folder), 0.5, 1.0)


@pytest.mark.timeout(20)
def test_a_pipe_and_an_endless_device_are_missing_images_and_no_table(folder: Path) -> None:
    for name in ("0.png", "1.png"):
        (folder / name).unlink()
    os.mkfifo(folder / "0.png")
    (folder / "1.png").symlink_to("/dev/zero")
    facts = scan_images(image_list(folder), 1)
    assert [fact.problem for fact in facts[:3]] == ["it is not a regular file"] * 2 + [""]
    os.mkfifo(folder / "t.csv")
    with pytest.raises(DataError, match="not a regular file"):
        check_table(Data(table=str(folder / "t.csv")), 0)
