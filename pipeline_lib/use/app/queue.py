"""The images that browsers have sent, and one thread that scores them in turn.

Each page that is open in a browser has a batch of its own, under an id that nobody can guess. Batches take turns, so
that one image of one person does not wait for two hundred of another.
"""

import itertools
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pipeline_lib.data.images import FORMATS
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.use.scorer import ScoredImage

log = logging.getLogger("whyscore.app")

AT_ONCE = 8
"""Images that the model gets together: more would delay the first results and the other batches."""

_MEGAPIXELS_AT_ONCE = 100.0
"""Of images that are decoded together; a larger one is decoded alone. At 4 bytes a pixel these are 0.4 GB."""


class Limits(NamedTuple):
    """The most that the page takes."""

    images: int = 200  # of one batch
    megabytes: float = 40.0  # of one file
    megapixels: float = 100.0  # of one image
    all_megabytes: float = 4000.0  # of all files of all batches, on the disk
    batches: int = 100
    idle_s: float = 3600.0  # a batch that no page has asked for so long is removed


class Refused(WhyScoreError):
    """A request that goes over a limit; `status` is the one of HTTP."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


@dataclass
class Item:
    """An image of a batch; `scored` is None until it was its turn."""

    number: int
    name: str
    path: Path
    megabytes: float
    megapixels: float
    changed: int
    scoring: bool = False
    scored: ScoredImage | None = None


@dataclass
class Batch:
    """The images of one page, and a counter of their changes."""

    folder: Path
    items: list[Item] = field(default_factory=list)
    changes: int = 0
    coming: int = 0  # uploads under way
    asked: float = field(default_factory=time.monotonic)

    def touch(self, item: Item) -> None:
        """Mark an item as changed, so that the page hears of it."""
        self.changes += 1
        item.changed = self.changes

    @property
    def waiting(self) -> list[Item]:
        """The items whose turn has not come."""
        return [item for item in self.items if item.scored is None and not item.scoring]


class State(NamedTuple):
    """The state of a batch: its items that changed since a page asked, and how many images are before its next one."""

    changes: int
    changed: list[Item]
    total: int
    done: int
    ahead: int


class ScoringQueue:
    """Keeps the files of all batches below `folder`, and scores them with one model."""

    def __init__(self, score: Callable[[list[str]], list[ScoredImage]], folder: Path, limits: Limits):
        self.limits = limits
        self._score, self._folder = score, folder
        self._batches: dict[str, Batch] = {}
        self._megabytes = 0.0
        self._numbers = itertools.count(1)
        self._news = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)

    def start(self) -> None:
        """Begin to score."""
        self._thread.start()

    def stop(self) -> None:
        """End behind the images that are being scored now."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def open_batch(self) -> str:
        """A new batch; raises `Refused` when there are too many that are in use."""
        with self._news:
            for id in [id for id, batch in self._batches.items() if self._is_idle(batch)]:
                self._remove(id)
            if len(self._batches) >= self.limits.batches:
                raise Refused(503, f"{len(self._batches)} pages are open, which is the most; try again later")
            id = secrets.token_urlsafe(16)
            folder = self._folder / id
            folder.mkdir(parents=True)
            self._batches[id] = Batch(folder)
            return id

    def reserve(self, id: str, megabytes: float) -> Path:
        """A place for a file that is coming, which `add` or `give_up` ends; raises `Refused` over a limit."""
        with self._news:
            batch = self._batch(id)
            if megabytes > self.limits.megabytes:
                raise Refused(
                    413, f"the file has {megabytes:.1f} MB; this page takes files of up to {self.limits.megabytes:g} MB"
                )
            if len(batch.items) + batch.coming >= self.limits.images:
                raise Refused(
                    409, f"this page holds {self.limits.images} images, which is the most; clear it for others"
                )
            if self._megabytes + megabytes > self.limits.all_megabytes:
                raise Refused(507, "the server's space for images is full; clear the page, or try again later")
            self._megabytes += megabytes
            batch.coming += 1
            return batch.folder / str(next(self._numbers))

    def give_up(self, id: str, path: Path, megabytes: float) -> None:
        """End an upload that did not come to its end."""
        path.unlink(missing_ok=True)
        with self._news:
            self._megabytes -= megabytes
            if batch := self._batches.get(id):
                batch.coming -= 1

    def add(self, id: str, path: Path, name: str, megabytes: float) -> Item:
        """Put an uploaded file in the queue. Raises `Refused` when its batch was removed meanwhile."""
        pixels, problem = _look(path, self.limits)
        with self._news:
            batch = self._batch(id)
            batch.coming -= 1
            item = Item(len(batch.items), name, path, megabytes, pixels, changed=0)
            batch.items.append(item)
            if problem:
                item.scored = not_scored(name, problem)
            batch.touch(item)
            self._news.notify_all()
            return item

    def state(self, id: str, since: int = 0) -> State:
        """The state of a batch; `since` is the number of changes that a page knows."""
        with self._news:
            batch = self._batch(id)
            waiting = len(batch.waiting)
            others = [len(other.waiting) for other in self._batches.values() if other is not batch]
            return State(
                batch.changes,
                [replace(item) for item in batch.items if item.changed > since],
                total=len(batch.items),
                done=sum(item.scored is not None for item in batch.items),
                # Batches take turns, so of each other one as many are before the last of this one.
                ahead=sum(min(AT_ONCE * -(-waiting // AT_ONCE), other) for other in others) if waiting else 0,
            )

    def items(self, id: str) -> list[Item]:
        """All items of a batch, in the order in which they came."""
        with self._news:
            return [replace(item) for item in self._batch(id).items]

    def forget(self, id: str) -> None:
        """Remove a batch and its files."""
        with self._news:
            self._batch(id)
            self._remove(id)

    def _batch(self, id: str) -> Batch:
        batch = self._batches.get(id)
        if batch is None:
            raise Refused(404, "the server does not have this page's images any more; drop them again")
        batch.asked = time.monotonic()
        return batch

    def _is_idle(self, batch: Batch) -> bool:
        return time.monotonic() - batch.asked > self.limits.idle_s and not batch.coming and not batch.waiting

    def _remove(self, id: str) -> None:
        batch = self._batches.pop(id)
        self._megabytes -= sum(item.megabytes for item in batch.items)
        shutil.rmtree(batch.folder, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._stopped and not any(batch.waiting for batch in self._batches.values()):
                    self._news.wait()
                if self._stopped:
                    return
                batch, items = self._next()
                for item in items:
                    item.scoring = True
                    batch.touch(item)
            scored = self._score_files(items)
            with self._news:
                for item, found in zip(items, scored, strict=True):
                    item.scored, item.scoring = replace(found, image=item.name), False
                    batch.touch(item)

    def _next(self) -> tuple[Batch, list[Item]]:
        """The first images of the next batch that has some; it is the last one in the next turn."""
        id, batch = next((id, batch) for id, batch in self._batches.items() if batch.waiting)
        self._batches[id] = self._batches.pop(id)
        items, megapixels = list[Item](), 0.0
        for item in batch.waiting[:AT_ONCE]:
            megapixels += item.megapixels
            if items and megapixels > _MEGAPIXELS_AT_ONCE:
                break
            items.append(item)
        return batch, items

    def _score_files(self, items: list[Item]) -> list[ScoredImage]:
        try:
            return self._score([str(item.path) for item in items])
        except Exception as error:  # the thread has to live on for the other images
            log.exception("%d image(s) could not be scored", len(items))
            why = str(error) if isinstance(error, WhyScoreError) else f"the model failed ({type(error).__name__})"
            return [not_scored(item.name, why) for item in items]


def not_scored(name: str, problem: str) -> ScoredImage:
    """The row of an image with a problem."""
    nothing = dict.fromkeys(ScoredImage.__dataclass_fields__)
    return ScoredImage(**nothing | {"image": name, "image_sha256": "", "problem": problem})  # type: ignore[arg-type]


def _look(path: Path, limits: Limits) -> tuple[float, str | None]:
    """Millions of pixels by the file's header, and why they are too many. What else is wrong is the scorer's to say."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Exception:  # a damaged file makes Pillow raise anything
        return 0.0, None
    megapixels = width * height / 1e6
    if megapixels > limits.megapixels:
        return megapixels, (
            f"{width}x{height} px are {megapixels:,.1f} million pixels; this page takes images of up to"
            f" {limits.megapixels:g} million"
        )
    return megapixels, None
