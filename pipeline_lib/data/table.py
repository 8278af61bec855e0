"""Read a user's table of images and scores, and find everything that is wrong with it at once."""

import hashlib
import posixpath
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline_lib.errors import DataError
from pipeline_lib.recipe import SCORES, Data

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
_SHOWN = 5


class ImageList(NamedTuple):
    """A user's table, checked: columns image, score, split, group and then the user's other columns."""

    rows: pd.DataFrame
    folder: Path


def read_image_list(data: Data, seed: int) -> ImageList:
    """Read and check the table that a recipe names; images are looked for, not opened.

    Raises `DataError` listing every problem: unreadable file, missing columns, scores that are no finite number,
    duplicate or unsafe paths, unknown splits, a group in two splits, too few training images, constant scores.
    """
    frame = _read(Path(data.table), [name for name in (data.image_column, data.group_column) if name])
    wanted = {"image": data.image_column, "score": data.score_column}
    if data.split_column:
        wanted["split"] = data.split_column
    if data.group_column:
        wanted["group"] = data.group_column
    absent = [f"{name} column {column!r}" for name, column in wanted.items() if column not in frame.columns]
    if absent:
        fields = ", ".join(f"data.{name.split()[0]}_column" for name in absent)
        hint = f"; set {fields} to the right name"
        if any(name.startswith("split") for name in absent):
            hint += ", or data.split_column: null to have the splits drawn"
        raise DataError(
            f"{data.table}: no {', no '.join(absent)}; its columns are {', '.join(map(str, frame.columns))}{hint}"
        )
    others = [column for column in frame.columns if column not in wanted.values()]
    rows = pd.DataFrame({name: frame[column] for name, column in wanted.items()})
    problems: list[str] = []
    rows["image"] = _text(rows["image"])
    named = rows["image"].str.strip() != ""
    _note(problems, "image path(s) are empty", rows.index[~named] + 2, "line")
    _note(
        problems,
        "image path(s) are not inside the image folder; write them relative to it (data.images)",
        rows.loc[~rows["image"].map(_is_safe), "image"],
    )
    again = rows["image"].map(posixpath.normpath).duplicated()  # ./1.jpg is 1.jpg
    _note(problems, "image(s) stand more than once", rows.loc[named & again, "image"])
    scores = pd.to_numeric(rows["score"], errors="coerce").astype(float)
    bad = ~np.isfinite(scores)
    _note(
        problems, "score(s) are no finite number", [f"{i}: {s!r}" for i, s in rows.loc[bad, ["image", "score"]].values]
    )
    rows["score"] = scores
    rows["group"] = _text(rows["group"]) if "group" in rows else rows["image"]
    grouped = rows["group"].str.strip() != ""
    if data.group_column:
        _note(problems, "group(s) are empty", rows.index[~grouped] + 2, "line")
    if "split" in rows:
        rows["split"] = rows["split"].astype(str).str.strip().str.lower().replace(_SPLIT_NAMES)
        _note(
            problems,
            f"split(s) are none of {', '.join(SPLITS)}",
            rows.loc[~rows["split"].isin(SPLITS), "split"].unique(),
        )
    else:
        rows["split"] = draw_splits(rows["group"], data.val_fraction, data.test_fraction, seed)
    straddling = rows[grouped].groupby("group")["split"].nunique()
    _note(problems, "group(s) stand in more than one split", straddling.index[straddling > 1])
    problems += too_few_images(rows["split"])
    train = scores[(rows["split"] == "train") & ~bad]
    if len(train) > 1 and np.ptp(train) == 0:
        problems.append(f"all {len(train)} training scores are {train.iloc[0]:g}; there is nothing to learn")
    if problems:
        raise DataError("\n  ".join([f"{data.table}: {len(problems)} problem(s)", *problems]))
    rows = rows[["image", "score", "split", "group"]]
    more = frame[others].rename(columns={name: f"user_{name}" for name in others if name in _RESERVED})
    if not more.columns.is_unique:
        raise DataError(f"{data.table}: rename one of the columns {', '.join(more.columns[more.columns.duplicated()])}")
    return ImageList(pd.concat([rows, more], axis=1), Path(data.images or Path(data.table).parent))


def too_few_images(splits: pd.Series) -> list[str]:
    """A sentence for each split that has too few images to fit bins, to fit reference values or to correlate."""
    counts = splits.value_counts()
    return [
        f"{counts.get(split, 0)} {split} image(s), at least {least} are needed (splits that are drawn follow"
        " data.val_fraction and data.test_fraction)"
        for split, least in (("train", len(SCORES)), ("val", len(SCORES)), ("test", 2))
        if counts.get(split, 0) < least
    ]


_RESERVED = {"image", "image_sha256", "width_px", "height_px", "score", "bin", "split", "group"}


def draw_splits(groups: pd.Series, val_fraction: float, test_fraction: float, seed: int) -> pd.Series:
    """Draw a split for every group, so that images of one group stay together.

    A group's split depends on its name and the seed alone: more rows in the table move no image to another split.
    """

    def split(group: str) -> str:
        place = int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8]) / 2**64
        return "test" if place < test_fraction else "val" if place < test_fraction + val_fraction else "train"

    return groups.map(split)


def fingerprint(images: ImageList) -> str:
    """Sha256 over the rows and over the size of every image file: what the discretize stage depends on.

    The content of each image is digested when it is first read and checked at every later reading.
    """
    digest = hashlib.sha256(images.rows.to_csv(index=False).encode())
    for image in images.rows["image"]:
        try:
            size = (images.folder / image).stat().st_size
        except OSError:
            size = -1
        digest.update(f"{size},".encode())
    return digest.hexdigest()


def _read(path: Path, names: list[str]) -> pd.DataFrame:
    if not path.exists():
        raise DataError(f"image table {path} does not exist; set data.table to a CSV or Parquet file")
    if path.suffix.lower() not in {".csv", ".parquet", ".pq"}:
        raise DataError(f"image table {path}: expected a file ending in .csv or .parquet; save it as one of these")
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            return pd.read_parquet(path)
        frame = pd.read_csv(path, low_memory=False, encoding="utf-8-sig")
        # Names are taken as they are written: 007 is no number, and NA may well be a file.
        written = [name for name in names if name in frame.columns]
        texts = pd.read_csv(path, usecols=written, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return frame.assign(**{name: texts[name] for name in written})
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"image table {path} cannot be read: {error}") from error


def _text(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").map(str)


def _is_safe(image: str) -> bool:
    path = image.replace("\\", "/")
    return not path.startswith("/") and ".." not in path.split("/")


def _note(problems: list[str], what: str, found: object, prefix: str = "") -> None:
    items = [f"{prefix} {item}".strip() for item in found]  # type: ignore[attr-defined]
    if items:
        more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
        problems.append(f"{len(items)} {what}: {', '.join(items[:_SHOWN])}{more}")
