"""Write the demo's images and scores as ordinary files: the form that anybody's own data takes too.

`scores.csv` begins like this; every column after `group` is optional knowledge that training never reads:

    image,score,split,group,clutter,fading,flatness,exposure,blur,blockiness,noise
    images/train-00000.jpg,6.213,train,photo:coffee,0.031,0.642,0.012,-0.054,0.071,0.003,0.022
"""

import csv
import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline_lib.demo.distortions import ATTRIBUTES, Severity, distort, draw_severity
from pipeline_lib.demo.photographs import Pixels, photograph
from pipeline_lib.demo.raters import mean_score, rater_habits
from pipeline_lib.demo.scenes import scene

SIDE_PX = 96
FORMAT = 1
SPLITS = ("train", "val", "test")
_PHOTOGRAPH_SHARE = 0.3
_MARK = "complete.json"


class Picture(NamedTuple):
    """One picture with what is known about it: pixels (side x side x 3, 0..1), group and faults."""

    pixels: Pixels
    group: str
    severity: Severity


def draw_picture(rng: np.random.Generator, split: str, name: str, side_px: int = SIDE_PX) -> Picture:
    """A crop of one of the split's photographs, or a drawn scene of its own called `name`, with random faults."""
    severity = draw_severity(rng)
    if rng.random() < _PHOTOGRAPH_SHARE:
        pixels, source = photograph(rng, split, side_px)
        group = f"photo:{source}"
    else:
        pixels, group = scene(rng, side_px), f"scene:{name}"
    return Picture(distort(pixels, severity, rng), group, severity)


def _write(folder: Path, seed: int, counts: dict[str, int]) -> None:
    (folder / "images").mkdir()
    habits = rater_habits(seed)
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "score", "split", "group", *ATTRIBUTES])
        for number, split in enumerate(SPLITS):
            for index in range(counts[split]):
                # One stream per picture: the first pictures of a split stay the same whatever the sizes are.
                rng = np.random.default_rng([seed, number, index])
                name = f"{split}-{index:05d}"
                picture = draw_picture(rng, split, name)
                path = f"images/{name}.jpg"
                pixels = Image.fromarray((picture.pixels * 255).round().astype(np.uint8))
                pixels.save(folder / path, quality=95, subsampling=0)
                score = mean_score(picture.severity, habits, rng)
                writer.writerow([path, score, split, picture.group, *picture.severity])


def write_dataset(folder: Path, seed: int, train: int = 600, val: int = 500, test: int = 300) -> Path:
    """Write the demo data set to `folder` and return the path of its `scores.csv`.

    Same arguments, same bytes. A complete data set of the same arguments is kept; anything else in `folder` is an
    error, because it may be somebody's work. The folder appears under its name only when all of it is written.
    """
    made_by = {"format": FORMAT, "seed": seed, "train": train, "val": val, "test": test}
    table = folder / "scores.csv"
    if folder.exists() and any(folder.iterdir()):
        mark = folder / _MARK
        if mark.is_file() and json.loads(mark.read_text()) == made_by:
            return table
        raise FileExistsError(
            f"{folder} holds something other than the demo data of {made_by}; remove it or choose another"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    attempt = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(attempt, seed, {"train": train, "val": val, "test": test})
        (attempt / _MARK).write_text(json.dumps(made_by) + "\n")
        attempt.chmod(0o755)
        attempt.replace(folder)
    except BaseException:
        shutil.rmtree(attempt, ignore_errors=True)
        raise
    return table
