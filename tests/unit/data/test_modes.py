"""Each row of the table of modes in docs/data-sets.md, and every kind of TIFF that Pillow knows."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, PpmImagePlugin, TiffImagePlugin

from tests.decoding import decode

ROOT = Path(__file__).parents[3]
SIDE = 8


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def filled(value: object, kind: type) -> bytes:
    return np.full((SIDE, SIDE), value, kind).tobytes()


def grey(value: int, mode: str = "L") -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), value)


def png(depth: int, colour: int, row: bytes, transparent: bytes = b"") -> bytes:
    """A PNG whose rows are all alike."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0))]
    parts += [(b"tRNS", transparent)] if transparent else []
    parts += [(b"IDAT", zlib.compress((b"\0" + row) * SIDE)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(data: bytes, bits: tuple[int, ...], photometric: int = 1, sample: int = 1, order: str = "<", **more: object):
    """An uncompressed TIFF in one strip."""
    extra, fill = tuple(more.get("extra", ())), int(str(more.get("fill", 1)))
    tags = [(256, "H", [SIDE]), (257, "H", [SIDE]), (258, "H", list(bits)), (259, "H", [1])]
    tags += [(262, "H", [photometric]), (266, "H", [fill]), (273, "I", [0]), (277, "H", [len(bits)])]
    tags += [(278, "H", [SIDE]), (279, "I", [len(data)]), (284, "H", [1])]
    tags += [(320, "H", [0] * 3 * 2 ** bits[0])] if photometric == 3 else []
    tags += [(338, "H", list(extra))] if extra else []
    tags += [(339, "H", [sample] * len(bits))] if sample != 1 else []
    packed = [(tag, kind, struct.pack(f"{order}{len(values)}{kind}", *values)) for tag, kind, values in tags]
    end = 8 + 2 + 12 * len(tags) + 4
    strip = end + sum(len(values) for *_, values in packed if len(values) > 4)
    entries, beyond = b"", b""
    for tag, kind, values in packed:
        count, inline = len(values) // struct.calcsize(kind), len(values) <= 4
        values = struct.pack(f"{order}I", strip) if tag == 273 else values
        place = values.ljust(4, b"\0") if inline else struct.pack(f"{order}I", end + len(beyond))
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], count) + place
        beyond += b"" if inline else values
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + struct.pack(f"{order}I", 0) + beyond + data


def pgm(value: int, most: int) -> bytes:
    return b"P5 %d %d %d\n" % (SIDE, SIDE, most) + filled(value, ">u2")


def red_palette() -> Image.Image:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image


FILES: dict[str, Callable[[], bytes]] = {
    "grey, 1 bit": lambda: saved(grey(1, "1")),
    "grey, 2 bits": lambda: png(2, 0, b"\xaa\xaa"),
    "grey, 4 bits": lambda: png(4, 0, b"\x88" * 4),
    "grey, 8 bits": lambda: saved(grey(77)),
    "PNG, grey, 16 bits": lambda: png(16, 0, b"\x80\0" * SIDE),
    "TIFF, grey, 16 bits": lambda: tiff(filled(32768, "<u2"), (16,)),
    "TIFF, grey, 16 bits, big-endian": lambda: tiff(filled(32768, ">u2"), (16,), order=">"),
    "TIFF, grey, 16 bits, white is zero": lambda: tiff(filled(65535, "<u2"), (16,), 0),
    "TIFF, grey, 12 bits": lambda: tiff(bytes([0x80, 0x08, 0x00]) * (SIDE * SIDE // 2), (12,)),
    "TIFF, grey, 32 bits": lambda: tiff(filled(3221225472, "<u4"), (32,)),
    "TIFF, grey, 8 bits, signed": lambda: tiff(filled(64, "i1"), (8,), sample=2),
    "TIFF, grey, 16 bits, signed": lambda: tiff(filled(8192, "<i2"), (16,), sample=2),
    "TIFF, grey, 32 bits, signed": lambda: tiff(filled(1073741824, "<i4"), (32,), sample=2),
    "TIFF, floats": lambda: tiff(filled(0.66, "<f4"), (32,), sample=3),
    "PFM": lambda: b"Pf %d %d -1.0\n" % (SIDE, SIDE) + filled(0.66, "<f4"),
    "PGM, up to 65535": lambda: pgm(32768, 65535),
    "PGM, up to 1000": lambda: pgm(500, 1000),
    "JPEG 2000, grey, 16 bits": lambda: saved(Image.fromarray(np.full((SIDE, SIDE), 32768, np.uint16)), "JPEG2000"),
    "grey with alpha": lambda: saved(Image.new("LA", (SIDE, SIDE), (0, 128))),
    "palette": lambda: saved(red_palette()),
    "palette with alpha": lambda: tiff(bytes([1, 0]) * SIDE * SIDE, (8, 8), 3, extra=(2,)),
    "RGB, 8 bits": lambda: saved(Image.new("RGB", (SIDE, SIDE), (255, 0, 77))),
    "RGB, 16 bits": lambda: png(16, 2, b"\xff\xff\0\0\x80\0" * SIDE),
    "RGB with alpha": lambda: saved(Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 128))),
    "CMYK": lambda: saved(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "TIFF"),
    "TIFF, CIELAB": lambda: tiff(bytes([255, 0, 0]) * SIDE * SIDE, (8, 8, 8), 8),
}


def rows() -> dict[str, list[str]]:
    """The cells of each row of the table in the documentation, by the first."""
    lines = (ROOT / "docs" / "data-sets.md").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| file | Pillow's mode"))
    table = lines[start + 2 : lines.index("", start)]
    return {cells[0]: cells for line in table if (cells := [cell.strip() for cell in line.strip("|").split("|")])}


def centre(content: bytes) -> tuple[int, ...]:
    image = decode(content, 1)
    assert image.mode == "RGB"
    return tuple(image.getpixel((3, 3)))


def test_the_documentation_has_every_mode() -> None:
    assert list(rows()) == list(FILES)
    known = {mode for mode, _ in [*TiffImagePlugin.OPEN_INFO.values(), *PngImagePlugin._MODES.values()]}
    known |= {PpmImagePlugin.MODES[magic] for magic in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf")}
    assert {row[1].strip("`") for row in rows().values()} == known


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_read_as_the_documentation_says(file: str) -> None:
    _, mode, _, example = rows()[file]
    content = FILES[file]()
    assert Image.open(io.BytesIO(content)).mode == mode.strip("`")
    wanted = tuple(int(number) for number in re.findall(r"\d+", example.rpartition("→")[2]))
    assert centre(content) == pytest.approx(wanted * 3 if len(wanted) == 1 else wanted, abs=1)


RAMPS = [key for key in TiffImagePlugin.OPEN_INFO if key[1] not in (3, 6, 8)]
"""The kinds of TIFF whose colours go from black to white; palettes, YCbCr and L*a*b* do not."""


@pytest.mark.parametrize("key", RAMPS, ids=str)
def test_black_and_white_of_every_kind_of_tiff(key: tuple) -> None:
    """All bits clear, and the largest value: one is black and the other white, or the file is refused."""
    order, photometric, (sample, *_), fill, bits, extra = key
    order = "<" if order == TiffImagePlugin.II else ">"
    count = SIDE * SIDE * sum(bits) // 8
    most = {1: b"\xff", 2: b"\x7f" + b"\xff" * (bits[0] // 8 - 1), 3: struct.pack(">f", 1.0)}[sample]
    most = most if order == ">" else most[::-1]
    ends = [tiff(data * (count // len(data)), bits, photometric, sample, order, extra=extra, fill=fill)
            for data in (b"\0", most)]  # fmt: skip
    if TiffImagePlugin.OPEN_INFO[key][1] == "L;IR":
        with pytest.raises(ValueError, match="cannot be decoded"):
            centre(ends[0])
        return
    black, white = ends[::-1] if photometric in (0, 5) else ends
    transparent = "A" in TiffImagePlugin.OPEN_INFO[key][0]
    assert centre(black) == ((255,) * 3 if transparent else (0,) * 3)
    assert centre(white) == (255,) * 3


@pytest.mark.parametrize("transposed", range(1, 9))
def test_deep_pixels_are_turned_too(transposed: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = transposed
    ramp = np.arange(SIDE * 4, dtype=np.uint16).reshape(4, SIDE) * 1000
    flat = Image.fromarray((ramp // 257).astype(np.uint8))
    deep = decode(saved(Image.fromarray(ramp), exif=exif), 1)
    assert deep.size == ((SIDE, 4) if transposed < 5 else (4, SIDE))
    assert np.abs(np.asarray(deep).astype(int) - np.asarray(decode(saved(flat, exif=exif), 1))).max() <= 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff(filled(np.nan, "<f4"), (32,), sample=3), "NaN"),
        (tiff(b"\0\0\x80\x7f" * SIDE * SIDE, (32,), sample=3), "inf"),
        (tiff(filled(-0.5, "<f4"), (32,), sample=3), "-0.5"),
        (tiff(filled(128.0, "<f4"), (32,), sample=3), "128"),
        (tiff(filled(-1, "<i2"), (16,), sample=2), "-1"),
        (tiff(filled(-1, "i1"), (8,), sample=2), "-1"),
        (tiff(filled(-1, "<i4"), (32,), sample=2), "-1"),
        (b"Pf %d %d -1.0\n" % (SIDE, SIDE) + filled(np.nan, "<f4"), "NaN"),
    ],
)
def test_pixels_without_a_rule_are_refused_with_what_they_are(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(content, 1)


def test_the_same_picture_is_the_same_in_every_format() -> None:
    """A dark one, which a stretch from its own least to its own largest value would make bright."""
    rng = np.random.default_rng(0)
    deep = rng.integers(1000, 9000, (SIDE, SIDE), dtype=np.uint16)
    wanted = (deep.astype(float) / 257).round()
    header = b"P5 %d %d 65535\n" % (SIDE, SIDE)
    floats = (deep / np.float32(65535)).astype("<f4")
    for content in (
        saved(Image.fromarray(deep)),
        saved(Image.fromarray(deep), "JPEG2000"),
        header + deep.astype(">u2").tobytes(),
        tiff(deep.astype("<u2").tobytes(), (16,)),
        tiff(deep.astype(">u2").tobytes(), (16,), order=">"),
        tiff((65535 - deep).astype("<u2").tobytes(), (16,), 0),
        tiff(floats.tobytes(), (32,), sample=3),
        tiff((1 - floats).astype("<f4").tobytes(), (32,), 0, 3),
        b"Pf %d %d -1.0\n" % (SIDE, SIDE) + floats[::-1].tobytes(),  # from the lowest line up
    ):
        assert np.abs(np.asarray(decode(content, 1))[..., 0] - wanted).max() <= 1


@pytest.mark.parametrize(
    ("content", "there", "elsewhere"),
    [
        (png(2, 0, b"\xaa\xab", b"\0\x02"), 255, 255),
        (png(2, 0, b"\xaa\xaa", b"\0\x01"), 170, 170),
        (png(4, 0, b"\x88" * 4, b"\0\x08"), 255, 255),
        (png(4, 0, b"\x88" * 4, b"\0\x07"), 136, 136),
        (png(8, 0, b"\x88" * 8, b"\0\x88"), 255, 255),
        (png(16, 0, b"\x80\0" * SIDE, b"\x80\0"), 255, 255),
        (png(16, 0, b"\x80\0" * SIDE, b"\x80\1"), 128, 128),
        (png(16, 2, b"\x12\x34\0\0\0\0" * SIDE, b"\x12\x34\0\0\0\0"), 255, 255),
        (png(16, 2, b"\x34\x12\0\0\0\0" * SIDE, b"\x12\x34\0\0\0\0"), 52, 0),
    ],
)
def test_the_transparent_colour_of_a_png_is_found_in_every_depth(content: bytes, there: int, elsewhere: int) -> None:
    assert centre(content)[:2] == (there, elsewhere)


def jpeg_with_exif(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """A JPEG, red on the left, with these EXIF entries: tag, type, count, and the value or what lies behind."""
    image = Image.new("RGB", (20, 10), "black")
    image.paste((255, 0, 0), (0, 0, 10, 10))
    table, beyond = b"", b""
    for tag, kind, count, value in entries:
        at = 8 + 2 + 12 * len(entries) + 4 + len(beyond)
        inline = len(value) <= 4
        table += struct.pack("<HHI", tag, kind, count) + (value.ljust(4, b"\0") if inline else struct.pack("<I", at))
        beyond += b"" if inline else value
    body = b"Exif\0\0II" + struct.pack("<HIH", 42, 8, len(entries)) + table + bytes(4) + beyond
    content = saved(image, "JPEG", quality=95)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]


@pytest.mark.parametrize(
    "odd",
    [
        (0x9204, 10, 1, struct.pack("<ii", -1, 0)),  # a signed rational with denominator 0
        (0x927C, 10, 1, struct.pack("<ii", -1, 0)),
        (0x9204, 10, 1, struct.pack("<ii", 1, 0)),
        (0x829A, 5, 1, struct.pack("<II", 1, 0)),
        (0x9204, 10, 1, struct.pack("<ii", -(2**31), -1)),
        (0x010F, 2, 4, b"\xff\xfe\0\0"),
        (0x0131, 99, 1, b"\0\0\0\0"),  # a type that does not exist
    ],
)
def test_an_image_is_turned_whatever_else_its_exif_holds(odd: tuple[int, int, int, bytes]) -> None:
    orientation = (0x0112, 3, 1, struct.pack("<H", 6))
    upright = decode(jpeg_with_exif(sorted([orientation, odd])), 1)
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2))[0] > 200 and upright.getpixel((5, 17))[0] < 50


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_with_such_an_exif_are_turned(kind: str) -> None:
    photograph = Image.open(io.BytesIO(jpeg_with_exif(
        [(0x0112, 3, 1, struct.pack("<H", 6)), (0x9204, 10, 1, struct.pack("<ii", -1, 0))]
    )))  # fmt: skip
    assert decode(saved(photograph, kind, exif=photograph.info["exif"]), 1).size == (10, 20)


def test_an_exif_that_is_no_exif_is_ignored() -> None:
    content = jpeg_with_exif([])
    assert decode(content.replace(b"II*\0", b"XX*\0"), 1).size == (20, 10)
