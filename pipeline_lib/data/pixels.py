"""Resized images on a local disk, so that an image is decoded once and not in every stage, iteration and branch.

An entry holds the exact pixels after decoding and resizing, as a PPM file that any viewer shows; reading it takes a
thirtieth of the time of decoding a JPEG of 2048 px. The cache cannot change or end a run: an entry that is damaged or
cannot be kept only costs time. The image file is still read, and its digest checked, at every opening
(`images.open_image`).
"""

import hashlib
import logging
import os
import shutil
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import PIL
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("whyscore.data")

VERSION = f"2-pillow-{PIL.__version__}"
"""Increase the number when `images.decoded` or the resizing gives other pixels, e.g. after an upgrade of Pillow."""

_FOLDERS = 256
_KEEP_FREE = 2e9  # bytes that stay free, because the store may be on the same disk
_ABANDONED_S = 3600.0


class PixelCache(BaseModel):
    """A folder of resized images that grows up to `limit_gb` and then does not change; processes may share it.

    Nothing is removed for new entries: stages read all their images in turn, so they next need the ones read longest
    ago, and fixed entries serve better than replaced ones.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    limit_gb: float

    def get(self, sha256: str, resize_px: int) -> "Image | None":
        """The cached image for a file's digest and size; None if there is none or it is damaged."""
        from PIL import Image

        path = self._path(sha256, resize_px)
        try:
            entry = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _say(f"{self.folder} cannot be read ({error.strerror}); images are decoded instead")
            return None
        start = len(_start(path.name, b""))
        content = entry[start:]
        if entry[:start] != _start(path.name, content):
            _say(f"{self.folder} has damaged entries, e.g. {path.name}; they are made again")
            return None
        size, _, pixels = content.split(b"\n", 2)
        width, height = size.split()
        return Image.frombytes("RGB", (int(width), int(height)), pixels)

    def keep(self, sha256: str, resize_px: int, image: "Image") -> None:
        """Keep an RGB image, unless the cache is full; other processes see it complete or not at all."""
        path = self._path(sha256, resize_px)
        content = b"%d %d\n255\n" % image.size + image.tobytes()
        entry = _start(path.name, content) + content
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Digests spread evenly over the folders, so each has its share of the limit and no total is needed.
            if _size(path.parent) + len(entry) > self.limit_gb * 1e9 / _FOLDERS:
                _say(
                    f"{self.folder} is full (runtime.pixel_cache_gb = {self.limit_gb:g}); further images are"
                    " decoded each time. It may be removed at any time"
                )
                return
            if shutil.disk_usage(path.parent).free < _KEEP_FREE:
                _say(f"{self.folder}: its disk has less than {_KEEP_FREE / 1e9:g} GB left, which are not used")
                return
            try:
                part.write_bytes(entry)
                part.replace(path)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
        except OSError as error:
            _say(f"{self.folder} cannot be written ({error.strerror}); images are decoded each time")

    def _path(self, sha256: str, resize_px: int) -> Path:
        return Path(self.folder, sha256[:2], f"{sha256}-{resize_px}px-{VERSION}.ppm")


def _start(name: str, content: bytes) -> bytes:
    """The beginning of a file: a digest of its content and name, so that no file is taken for another."""
    return b"P6\n# %s\n" % hashlib.sha256(name.encode() + b"\n" + content).hexdigest().encode()


def _size(folder: Path) -> int:
    """Bytes in a folder; removes incomplete files of killed processes."""
    total = 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # another process has just renamed or removed it
            facts = entry.stat()
            if entry.name.endswith(".part") and time.time() - facts.st_mtime > _ABANDONED_S:
                os.unlink(entry)
            else:
                total += facts.st_size
    return total


@cache  # once a process, not once an image
def _say(what: str) -> None:
    log.warning("pixel cache %s", what)
