"""Write the demo's images and scores as ordinary files: the form that anybody's own data takes too.

`scores.csv` begins like this; every column after `group` is optional knowledge that training never reads:

    image,score,split,group,clutter,fading,flatness,exposure,blur,blockiness,noise
    images/train-00000.jpg,6.213,train,photo:coffee,0.031,0.642,0.012,-0.054,0.071,0.003,0.022
"""

import csv
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline_lib.demo.distortions import ATTRIBUTES, FAULTLESS, Severity, distort, draw_severity
from pipeline_lib.demo.photographs import Pixels, photograph
from pipeline_lib.demo.raters import mean_score, rater_habits
from pipeline_lib.demo.scenes import Subject, scene
from pipeline_lib.errors import DataError

SIDE_PX = 96
FORMAT = 1
SPLITS = ("train", "val", "test")
_PHOTOGRAPH_SHARE = 0.3
_MARK = "complete.json"


class DrawnImage(NamedTuple):
    """One image with what is known about it: pixels (side x side x 3, 0..1), group, faults, and what a scene shows.

    A photograph has no subject that is known.
    """

    pixels: Pixels
    group: str
    severity: Severity
    subject: Subject | None


def draw_image(rng: np.random.Generator, split: str, name: str, side_px: int = SIDE_PX) -> DrawnImage:
    """A crop of one of the split's photographs, or a drawn scene of its own called `name`, with random faults."""
    severity = draw_severity(rng)
    source = _draw_source(rng, split, name, side_px)
    return source._replace(pixels=distort(source.pixels, severity, rng), severity=severity)


def draw_source(rng: np.random.Generator, split: str, name: str, side_px: int = SIDE_PX) -> DrawnImage:
    """What `draw_image` draws from the same stream, before it gets faults."""
    draw_severity(rng)
    return _draw_source(rng, split, name, side_px)


def _draw_source(rng: np.random.Generator, split: str, name: str, side_px: int) -> DrawnImage:
    if rng.random() < _PHOTOGRAPH_SHARE:
        pixels, photograph_name = photograph(rng, split, side_px)
        return DrawnImage(pixels, f"photo:{photograph_name}", FAULTLESS, None)
    pixels, subject = scene(rng, side_px)
    return DrawnImage(pixels, f"scene:{name}", FAULTLESS, subject)


def save(pixels: Pixels, path: Path) -> None:
    """Write an image as a JPEG of high quality."""
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(path, quality=95, subsampling=0)


def _write(folder: Path, seed: int, counts: dict[str, int]) -> None:
    (folder / "images").mkdir()
    habits = rater_habits(seed)
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "score", "split", "group", *ATTRIBUTES])
        for number, split in enumerate(SPLITS):
            for index in range(counts[split]):
                # One stream per image: the first images of a split stay the same whatever the sizes are.
                rng = np.random.default_rng([seed, number, index])
                name = f"{split}-{index:05d}"
                drawn = draw_image(rng, split, name)
                path = f"images/{name}.jpg"
                save(drawn.pixels, folder / path)
                score = mean_score(drawn.severity, habits, rng)
                writer.writerow([path, score, split, drawn.group, *drawn.severity])


def write_dataset(folder: Path, seed: int, train: int = 600, val: int = 500, test: int = 300) -> Path:
    """Write the demo data set to `folder` and return the path of its `scores.csv`.

    Same arguments, same bytes. A complete data set of the same arguments is kept; anything else in `folder` is an
    error, because it may be somebody's work. The folder appears under its name only when all of it is written.
    """
    made_by = {"format": FORMAT, "seed": seed, "train": train, "val": val, "test": test}
    write_whole(folder, made_by, lambda attempt: _write(attempt, seed, {"train": train, "val": val, "test": test}))
    return folder / "scores.csv"


def write_whole(folder: Path, made_by: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, which appears under its name only when it is complete.

    A complete folder of the same `made_by` is kept. Raises `DataError` when the folder holds anything else.
    """
    if folder.exists() and any(folder.iterdir()):
        mark = folder / _MARK
        if mark.is_file() and json.loads(mark.read_text()) == made_by:
            return
        raise DataError(
            f"{folder} holds something other than the demo data of {made_by}; remove it or choose another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    attempt = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(attempt)
        (attempt / _MARK).write_text(json.dumps(made_by) + "\n")
        attempt.chmod(0o755)
        attempt.replace(folder)
    except BaseException:
        shutil.rmtree(attempt, ignore_errors=True)
        raise
