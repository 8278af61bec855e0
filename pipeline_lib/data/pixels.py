"""Resized pictures on a local disk, so that a photograph is decoded once and not in every stage, iteration and branch.

An entry is what the decoder and the resizing gave, byte by byte, as a PPM file that any viewer shows; reading it takes
a thirtieth of the time of decoding a photograph of 2048 px. Nothing here can change or end a run: an entry that is
damaged or cannot be kept costs time alone. The photograph itself is still read, and its digest checked, at every
opening (`images.open_image`).
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

VERSION = f"1-pillow-{PIL.__version__}"
"""Raise the number whenever `images.decode` or the resizing gives other pixels; so may another release of Pillow."""

_FOLDERS = 256
_KEEP_FREE = 2e9  # bytes: the store may be on the same disk, and needs them more
_ABANDONED_S = 3600.0


class PixelCache(BaseModel):
    """A folder of resized pictures that grows up to `limit_gb` and then stays as it is; any process may share it.

    Nothing is removed to make room: stages go through their images in full, and what they saw least recently is what
    they need next, so a part that stays serves better than one that is replaced all the time.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    limit_gb: float

    def get(self, sha256: str, resize_px: int) -> "Image | None":
        """The picture that was kept for a photograph's digest and size, None where there is none or it is damaged."""
        from PIL import Image

        path = self._path(sha256, resize_px)
        try:
            entry = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _say(f"{self.folder} cannot be read ({error.strerror}); photographs are decoded instead")
            return None
        start = len(_start(path.name, b""))
        content = entry[start:]
        if entry[:start] != _start(path.name, content):
            _say(f"{self.folder} has damaged entries, e.g. {path.name}; they are made anew")
            return None
        size, _, pixels = content.split(b"\n", 2)
        width, height = size.split()
        return Image.frombytes("RGB", (int(width), int(height)), pixels)

    def keep(self, sha256: str, resize_px: int, picture: "Image") -> None:
        """Keep an RGB picture, unless there is no room; other processes see it as a whole or not at all."""
        path = self._path(sha256, resize_px)
        content = b"%d %d\n255\n" % picture.size + picture.tobytes()
        entry = _start(path.name, content) + content
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Digests fall evenly into the folders: each with its share of the limit, nobody has to count them all.
            if _size(path.parent) + len(entry) > self.limit_gb * 1e9 / _FOLDERS:
                _say(
                    f"{self.folder} is full (runtime.pixel_cache_gb = {self.limit_gb:g}); further photographs are"
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
            _say(f"{self.folder} cannot be written ({error.strerror}); photographs are decoded each time")

    def _path(self, sha256: str, resize_px: int) -> Path:
        return Path(self.folder, sha256[:2], f"{sha256}-{resize_px}px-{VERSION}.ppm")


def _start(name: str, content: bytes) -> bytes:
    """What a file begins with: the digest of all that follows, and of its name, so that none passes for another."""
    return b"P6\n# %s\n" % hashlib.sha256(name.encode() + b"\n" + content).hexdigest().encode()


def _size(folder: Path) -> int:
    """Bytes in a folder; what a killed process left half written is removed."""
    total = 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # renamed or removed by another process in this moment
            facts = entry.stat()
            if entry.name.endswith(".part") and time.time() - facts.st_mtime > _ABANDONED_S:
                os.unlink(entry)
            else:
                total += facts.st_size
    return total


@cache  # once a process, not once a photograph
def _say(what: str) -> None:
    log.warning("pixel cache %s", what)
