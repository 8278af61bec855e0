"""Ask a model about many rows in batches of similar images, and open the next images while it works."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from PIL.Image import Image

from pipeline_lib.progress import Progress

log = logging.getLogger("whyscore.model")

Record = dict[str, Any]
Answer = TypeVar("Answer")

THREADS = 4

_fits: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # batch sizes that fit, for models that ran out of memory


def ask_in_batches(
    model: Any,
    records: Sequence[Record],
    open_image: Callable[[str, str], Image],
    size: int,
    ask: Callable[[list[Record], list[list[Image]]], list[Answer]],
    progress: Progress,
) -> list[Answer]:
    """The answers of `ask` to the records, in their order; it gets up to `size` records with their images at a time.

    A record of one image holds `image`, `image_sha256`, `width_px` and `height_px`; one of several holds a list of such
    records as `images`. Images of similar proportions come in one batch, because they have equally many tiles or
    patches and need no padding. A batch that does not fit the GPU's memory is halved, for this model from then on. Both
    change answers only by rounding.
    """

    def open_images(record: Record) -> list[Image]:
        return [open_image(image["image"], image["image_sha256"]) for image in images_of(record)]

    left = sorted(range(len(records)), key=lambda at: [proportions(image) for image in images_of(records[at])])
    answers: dict[int, Answer] = {}
    opened: dict[int, Future[list[Image]]] = {}
    pool = ThreadPoolExecutor(THREADS)
    try:
        while left:
            size = min(size, _fits.get(model, size))
            for at in left[: 2 * size]:
                if at not in opened:
                    opened[at] = pool.submit(open_images, records[at])
                    if len(opened) == 1:  # alone, so that a source prepares itself once
                        opened[at].result()
            batch = left[:size]
            images = [opened[at].result() for at in batch]
            try:
                found = ask([records[at] for at in batch], images)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                found = None
            if found is None:  # outside the handler, whose traceback would keep the tensors
                _fits[model] = (len(batch) + 1) // 2
                log.warning("out of memory with %d rows at a time; continuing with %d", len(batch), _fits[model])
                torch.cuda.empty_cache()
                continue
            answers |= zip(batch, found, strict=True)
            for at in batch:
                del opened[at]
            left = left[size:]
            progress.advance(len(batch))
    finally:
        pool.shutdown(cancel_futures=True)
    return [answers[at] for at in range(len(records))]


def images_of(record: Record) -> list[Record]:
    """The images of a record, a record each; none for a record with an empty list of them."""
    images: list[Record] | None = record.get("images")
    return [record] if images is None else images


def proportions(record: Record) -> tuple[float, bool]:
    """Longer side over shorter, and which one is longer: they decide the number of tiles or patches."""
    width, height = record["width_px"], record["height_px"]
    return max(width, height) / min(width, height), width < height
