"""Batches: order, pictures in advance, a GPU that runs out of memory."""

import gc
import logging
import threading
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline_lib.errors import DataError
from pipeline_lib.progress import Progress
from pipeline_lib.vlm import batches
from pipeline_lib.vlm.batches import ask_in_batches


class Model:
    """Only its identity counts."""


def record(name: str, width: int, height: int) -> dict[str, Any]:
    return {"image": name, "image_sha256": name.upper(), "width_px": width, "height_px": height}


RECORDS = [
    record(f"{at}", *size) for at, size in enumerate([(40, 30), (30, 30), (30, 40), (90, 30), (400, 300), (9, 9)])
]


def open_blank(image: str, sha256: str) -> Image.Image:
    assert sha256 == image.upper()
    return Image.new("RGB", (1, int(image) + 1))


def ask(size: int, seen: list[list[str]], model: Any = None, room: int = 100) -> list[str]:
    def answer(batch: list[dict[str, Any]], images: list[list[Image.Image]]) -> list[str]:
        if len(batch) > room:
            raise torch.OutOfMemoryError("no room")
        assert [picture.height for (picture,) in images] == [int(row["image"]) + 1 for row in batch]
        seen.append([row["image"] for row in batch])
        return [f"answer {row['image']}" for row in batch]

    progress = Progress("asking", len(RECORDS))
    found = ask_in_batches(model or Model(), RECORDS, open_blank, size, answer, progress)
    assert progress.done == len(RECORDS)
    return found


ANSWERS = [f"answer {at}" for at in range(6)]


def test_like_images_come_together_and_answers_in_the_order_of_the_table() -> None:
    seen: list[list[str]] = []
    assert ask(2, seen) == ANSWERS
    assert seen == [["1", "5"], ["0", "4"], ["2", "3"]]
    assert ask(4, seen) == ask(100, seen) == ANSWERS
    assert ask_in_batches(Model(), [], open_blank, 3, lambda batch, images: batch, Progress("none", 0)) == []


def test_rows_of_several_images_get_them_in_their_order() -> None:
    """Pairs of one image sorted by the proportions of both; each row opens its own images."""
    pairs = [[0, 3], [1, 0], [5, 1], [0, 2], [1, 5], [3, 0]]
    rows = [{"at": at, "images": [RECORDS[one], RECORDS[other]]} for at, (one, other) in enumerate(pairs)]
    rows += [RECORDS[4] | {"at": 6}]
    seen: list[list[int]] = []

    def answer(batch: list[dict[str, Any]], images: list[list[Image.Image]]) -> list[list[int]]:
        seen.append([row["at"] for row in batch])
        return [[picture.height - 1 for picture in of_row] for of_row in images]

    progress = Progress("asking", 7)
    assert ask_in_batches(Model(), rows, open_blank, 2, answer, progress) == [*pairs, [4]]
    assert seen == [[2, 4], [1, 6], [3, 0], [5]]
    assert progress.done == 7


def test_a_batch_that_has_no_room_is_halved_and_the_size_remembered(caplog: pytest.LogCaptureFixture) -> None:
    model, seen = Model(), []
    with caplog.at_level(logging.WARNING):
        assert ask(6, seen, model, room=2) == ANSWERS
    assert [len(batch) for batch in seen] == [2] * 3
    sizes = [record.args for record in caplog.records if record.levelno == logging.WARNING]
    assert sizes == [(6, 3), (3, 2)] and "6 rows" in caplog.text
    caplog.clear()
    assert ask(6, seen, model, room=2) == ANSWERS  # it is known now
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ask(6, seen, Model(), room=6) == ANSWERS  # another model starts anew
    assert max(map(len, seen)) == 6
    del model
    gc.collect()
    assert len(batches._fits) == 0


def test_a_single_image_without_room_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        ask(4, [], room=0)


def test_the_next_pictures_are_opened_while_the_model_works() -> None:
    opened, counts, next_is_open = [], [], threading.Event()

    def open_image(image: str, sha256: str) -> Image.Image:
        opened.append(image)
        if len(opened) == 4:
            next_is_open.set()
        return Image.new("RGB", (1, 1))

    def answer(batch: list[dict[str, Any]], images: list[list[Image.Image]]) -> list[str]:
        assert next_is_open.wait(10)
        counts.append(len(opened))
        return ["" for _ in batch]

    ask_in_batches(Model(), RECORDS, open_image, 2, answer, Progress("asking", 6))
    assert counts[0] == 4  # one batch ahead and no further
    assert sorted(opened) == sorted(row["image"] for row in RECORDS)  # each once


def test_what_is_wrong_with_a_picture_is_told() -> None:
    def open_image(image: str, sha256: str) -> Image.Image:
        if image == "4":
            raise DataError(f"image {image} has changed")
        return Image.new("RGB", (1, 1))

    with pytest.raises(DataError, match="image 4 has changed"):
        ask_in_batches(Model(), RECORDS, open_image, 1, lambda batch, images: batch, Progress("asking", 6))
