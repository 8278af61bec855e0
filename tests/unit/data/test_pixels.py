"""The pixel cache gives what decoding gives, and whatever happens to it costs time alone."""

import base64
import hashlib
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline_lib.config.base import Data, Runtime
from pipeline_lib.data import images, pixels
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.data.images import open_image
from pipeline_lib.data.pixels import PixelCache
from pipeline_lib.data.sources import LocalFolder
from pipeline_lib.errors import DataError
from pipeline_lib.report.style import data_uri
from pipeline_lib.store import ArtifactRef

SIZE = 70 * 50 * 3  # bytes of pixels of an entry


@pytest.fixture(autouse=True)
def warnings_anew() -> None:
    pixels._say.cache_clear()


@pytest.fixture
def image_set(tmp_path: Path) -> dict[str, str]:
    """Digests of twelve photographs of 140x100 px in three formats, by name."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "image_set"
    folder.mkdir()
    for n in range(12):
        name = f"{n}.{('jpg', 'png', 'webp')[n % 3]}"
        Image.fromarray(rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)).save(folder / name)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    return PixelCache(folder=str(tmp_path / "cache"), limit_gb=1)


def open_one(tmp_path: Path, name: str, sha256: str, cache: PixelCache | None, resize_px: int = 70) -> Image.Image:
    return open_image(LocalFolder(str(tmp_path / "image_set")), name, sha256, resize_px, 1, cache)


def entries(cache: PixelCache) -> list[Path]:
    return sorted(path for path in Path(cache.folder).rglob("*") if path.is_file())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every file that is decoded from here on."""
    seen: list[int] = []
    decode = images.decoded

    def count(content: bytes, max_megapixels: float) -> AbstractContextManager[Image.Image]:
        seen.append(len(content))
        return decode(content, max_megapixels)

    monkeypatch.setattr(images, "decoded", count)
    return seen


def test_a_kept_picture_is_the_decoded_one_byte_by_byte(
    tmp_path: Path, image_set: dict[str, str], cache: PixelCache, decoded: list[int]
) -> None:
    for resize_px in (70, 33):
        for name, sha256 in image_set.items():
            plain, first, kept = (open_one(tmp_path, name, sha256, at, resize_px) for at in (None, cache, cache))
            assert plain.tobytes() == first.tobytes() == kept.tobytes()
            assert plain.size == kept.size == (resize_px, round(resize_px * 100 / 140))
            assert plain.mode == kept.mode and plain.info["image"] == kept.info["image"] == name
    assert len(decoded) == 2 * 2 * 12 and len(entries(cache)) == 2 * 12
    with Image.open(entries(cache)[0]) as shown:  # any viewer shows it
        assert shown.format == "PPM" and shown.size in {(70, 50), (33, 24)}


def test_an_image_that_is_not_resized_is_not_kept(tmp_path: Path, image_set: dict[str, str], cache: PixelCache) -> None:
    name, sha256 = next(iter(image_set.items()))
    assert open_one(tmp_path, name, sha256, cache, 140).size == (140, 100)
    assert not Path(cache.folder).exists()


def test_the_cache_stands_for_no_photograph(tmp_path: Path, image_set: dict[str, str], cache: PixelCache) -> None:
    name, sha256 = next(iter(image_set.items()))
    open_one(tmp_path, name, sha256, cache)
    path = tmp_path / "image_set" / name
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises(DataError, match="has changed"):
        open_one(tmp_path, name, sha256, cache)
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        open_one(tmp_path, name, sha256, cache)


def test_a_damaged_entry_is_noticed_and_made_anew(
    tmp_path: Path, image_set: dict[str, str], cache: PixelCache, caplog: pytest.LogCaptureFixture
) -> None:
    (name, sha256), (other, other_sha256) = list(image_set.items())[:2]
    right = open_one(tmp_path, name, sha256, cache).tobytes()
    [path] = entries(cache)
    good = path.read_bytes()
    open_one(tmp_path, other, other_sha256, cache)
    [another] = set(entries(cache)) - {path}
    flipped = bytes([good[-1] ^ 1])
    turned = good.replace(b"\n70 50\n", b"\n50 70\n")
    damages = [b"", good[:40], good[:-1], good + b"\0", good[:-1] + flipped, turned, another.read_bytes()]
    assert good not in damages
    for damage in damages:
        path.write_bytes(damage)
        assert open_one(tmp_path, name, sha256, cache).tobytes() == right
        assert path.read_bytes() == good
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # once, not once an entry
    assert f"{cache.folder} has damaged entries, e.g. {path.name}" in caplog.text


def test_processes_and_threads_share_a_cache(tmp_path: Path, image_set: dict[str, str], cache: PixelCache) -> None:
    code = (
        "import sys; from pipeline_lib.data.pixels import PixelCache; from PIL import Image\n"
        "cache = PixelCache(folder=sys.argv[1], limit_gb=1)\n"
        "for _ in range(300):\n"
        "    cache.keep('ab' * 32, 70, Image.new('RGB', (70, 50), 'red'))\n"
        "    found = cache.get('ab' * 32, 70)\n"
        "    assert found is not None and found.getpixel((0, 0)) == (255, 0, 0)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, cache.folder], stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and not errors, errors.decode()
    assert len(entries(cache)) == 1  # and nothing half written
    with ThreadPoolExecutor(8) as pool:
        both = [*image_set.items()] * 4
        found = list(pool.map(lambda row: open_one(tmp_path, *row, cache).tobytes(), both))
    assert found == [open_one(tmp_path, *row, None).tobytes() for row in both]


def test_it_stops_at_its_limit_and_says_so_once(
    tmp_path: Path, image_set: dict[str, str], caplog: pytest.LogCaptureFixture, decoded: list[int]
) -> None:
    limit = 256 * (2.5 * SIZE) / 1e9  # of every one of the 256 folders: two entries and a half
    cache = PixelCache(folder=str(tmp_path / "cache"), limit_gb=limit)
    picture = Image.new("RGB", (70, 50))
    for n in range(9):
        cache.keep(f"ab{n:062d}", 70, picture)
    assert len(entries(cache)) == 2 and len(caplog.records) == 1
    assert f"{cache.folder} is full (runtime.pixel_cache_gb = {limit:g})" in caplog.text
    assert cache.get(f"ab{0:062d}", 70) and cache.get(f"ab{1:062d}", 70) and not cache.get(f"ab{2:062d}", 70)
    cache.keep(f"cd{0:062d}", 70, picture)
    assert len(entries(cache)) == 3


def test_the_last_of_a_disk_is_left_to_the_store(
    cache: PixelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pixels, "_KEEP_FREE", 1e18)
    cache.keep("ab" * 32, 70, Image.new("RGB", (70, 50)))
    assert not entries(cache) and "1e+09 GB" in caplog.text


def test_what_a_killed_process_left_is_removed(cache: PixelCache) -> None:
    picture = Image.new("RGB", (70, 50))
    cache.keep("ab" * 32, 70, picture)
    folder = entries(cache)[0].parent
    old, new = folder / "1.part", folder / "2.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 9999,) * 2)
    cache.keep("ab" + "0" * 62, 70, picture)
    assert new in entries(cache) and old not in entries(cache)


CANNOT_WRITE = """
import resource, sys
from PIL import Image
from pipeline_lib.data.pixels import PixelCache
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as a full disk: the first bytes can be written, no more
cache = PixelCache(folder=sys.argv[1], limit_gb=1)
for n in range(3):
    cache.keep(f"ab{n:062d}", 70, Image.new("RGB", (70, 50)))
    assert cache.get(f"ab{n:062d}", 70) is None
"""


def test_a_disk_that_takes_no_more_costs_time_alone(cache: PixelCache) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CANNOT_WRITE, cache.folder], capture_output=True, text=True, check=True
    )
    assert done.stderr.startswith(f"pixel cache {cache.folder}") and "(File too large)" in done.stderr
    assert not entries(cache)


def test_a_folder_that_cannot_be_made_costs_time_alone(
    tmp_path: Path, image_set: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = PixelCache(folder=str(tmp_path / "file"), limit_gb=1)
    for name, sha256 in image_set.items():
        assert open_one(tmp_path, name, sha256, cache).size == (70, 50)
    assert [text for text in caplog.messages if "cannot be read (Not a directory)" in text] == caplog.messages[:1]
    assert [text for text in caplog.messages if "cannot be written (" in text] == caplog.messages[1:]
    assert len(caplog.messages) == 2


def test_another_release_of_the_decoder_has_entries_of_its_own(
    cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.keep("ab" * 32, 70, Image.new("RGB", (70, 50)))
    monkeypatch.setattr(pixels, "VERSION", "2-pillow-99")
    assert cache.get("ab" * 32, 70) is None


def test_a_recipe_says_where_it_is(tmp_path: Path, image_set: dict[str, str]) -> None:
    data = Data(table=str(tmp_path / "t.csv"), images=str(tmp_path / "image_set"), dataset="koniq10k")
    runtime = Runtime(pixel_cache=str(tmp_path / "cache"), pixel_cache_gb=3)
    made = ImageSet.of(data, ArtifactRef(stage="discretize", key="0" * 64), runtime)
    assert made.pixels == PixelCache(folder=str(tmp_path / "cache"), limit_gb=3)
    name, sha256 = next(iter(image_set.items()))
    assert made.opener(70)(name, sha256).size == (70, 50) and len(entries(made.pixels)) == 1
    assert ImageSet.of(data, made.table).pixels is None


def test_a_picture_carries_nothing_of_its_file_but_the_pixels(tmp_path: Path, cache: PixelCache) -> None:
    folder = tmp_path / "image_set"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.jpg", comment="shot by Jane Doe", dpi=(300, 300))
    digest = hashlib.sha256((folder / "a.jpg").read_bytes()).hexdigest()
    shown = [data_uri(open_one(tmp_path, "a.jpg", digest, pixels)) for pixels in (None, cache, cache)]
    assert len(set(shown)) == 1
    assert b"Jane Doe" not in base64.b64decode(shown[0].partition(",")[2])
