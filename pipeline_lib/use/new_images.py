"""Images without scores: files, folders, tables of paths, Parquet tables of images; local or on S3."""

import functools
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image, Resampling

from pipeline_lib.data import files
from pipeline_lib.data.embedded import EmbeddedImages, holds_bytes, image_column_type, parquet_schema
from pipeline_lib.data.frames import ENDINGS, read_frame
from pipeline_lib.data.images import decoded, open_image, opened_rgb
from pipeline_lib.data.sources import MissingImage, folder_source, is_safe
from pipeline_lib.errors import DataError
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, ArtifactStore, Miss
from pipeline_lib.tables.images import NEW_IMAGES
from pipeline_lib.vlm.model_ref import ModelRef

log = logging.getLogger("whyscore.predict")

_OUT_OF_PROPORTION = 100
"""Images of a smaller ratio of their sides are taken by every family, whatever resizing rounds."""


class Anywhere:
    """A source whose images have their full path as name, or the JSON of file, column and name of an embedded one."""

    def read(self, image: str) -> bytes:
        """The whole file; see `ImageSource`."""
        if image.startswith("["):
            path, column, name = json.loads(image)
            return _embedded(path, column).read(name)
        return folder_source(files.parent(image)).read(image.rsplit("/", 1)[-1])

    place = ""

    def version(self, image: str) -> str | None:
        """See `ImageSource`."""
        if image.startswith("["):
            path, column, name = json.loads(image)
            return _embedded(path, column).version(name)
        return folder_source(files.parent(image)).version(image.rsplit("/", 1)[-1])

    def names(self) -> Iterable[str]:
        """None: the images are in any folder."""
        return ()


@functools.lru_cache(maxsize=8)
def _embedded(path: str, column: str) -> EmbeddedImages:
    return EmbeddedImages.of((path,), column)  # each image's digest is checked when it is opened again


class _Place(NamedTuple):
    """An image that was asked for: its name in the output, and how `Anywhere` finds it; or why it cannot be found."""

    name: str
    path: str
    problem: str | None = None


class NewImages(NamedTuple):
    """The images that were asked for, in order, with the columns that the user's tables have beside them."""

    given: tuple[str, ...]
    places: list[_Place]
    own: pa.Table  # a row an image; without columns where no table was given
    names_image: bool  # whether a column of `own` names the image: one table of paths was given


def find_new_images(given: Sequence[str], image_column: str, *, recursive: bool = False) -> NewImages:
    """List what was asked for; no image is read.

    `given` are images, folders of images (what is below them too if `recursive`), or tables whose column `image_column`
    holds paths relative to the table, or the images themselves (Parquet). Each image has one row, also one that is
    given twice. Names of several folders and tables begin with the folder as it was given, so that none are equal by
    chance. What is passed over in a folder is logged. Raises `DataError` when there is no image at all, a table has no
    such column, or the storage fails.
    """
    places: list[_Place] = []
    own: dict[str, dict[int, Any]] = {}
    names_image = False
    for item in given:
        found, frame = _places(item, image_column, alone=len(given) == 1, recursive=recursive)
        names_image = len(given) == 1 and frame is not None and image_column in frame
        if frame is not None:
            for name in frame.columns:
                if name != image_column or names_image:
                    values = frame[name].astype(object).where(frame[name].notna(), None)
                    own.setdefault(str(name), {}).update(enumerate(values, len(places)))
        places += found
    if not places:
        count = ", ".join(files.IMAGE_ENDINGS)
        raise DataError(f"no image in {', '.join(given) or 'nothing'}; files that end in {count} count")
    columns = {name: _column([values.get(at) for at in range(len(places))]) for name, values in own.items()}
    rows = pa.table({"image": pa.nulls(len(places)), **columns} if "image" not in columns else columns)
    return NewImages(tuple(given), places, rows if "image" in columns else rows.drop_columns(["image"]), names_image)


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several kinds
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def keep_new_images(store: ArtifactStore, new: NewImages, max_megapixels: float, model: ModelRef) -> ArtifactRef:
    """Read every image once and keep their list with digests in the store.

    One that cannot be scored has its problem there: missing, unreadable, or of a shape that the family of `model`
    refuses. Raises `DataError` when the storage fails.
    """
    places = new.places
    progress = Progress("reading images", len(places))

    def look(place: _Place) -> tuple[str, int | None, int | None, str | None]:
        if place.problem:
            return "", None, None, place.problem
        return read_new_image(place.path, max_megapixels, model)[:4]

    found = []
    with ThreadPoolExecutor() as pool:
        for facts in pool.map(look, places):
            found.append(facts)
            progress.advance()
    names, paths, _ = zip(*places, strict=True)
    digests, widths, heights, problems = zip(*found, strict=True)
    table = pa.table(
        {
            "image": pa.array(names, pa.string()),
            "path": pa.array(paths, pa.string()),
            "image_sha256": pa.array(digests, pa.string()),
            "width_px": pa.array(widths, pa.int32()),
            "height_px": pa.array(heights, pa.int32()),
            "problem": pa.array(problems, pa.string()),
        }
    )
    lines = "\n".join("\t".join(map(str, row.values())) for row in table.to_pylist())
    ref = ArtifactRef(stage="new_images", key=hashlib.sha256(lines.encode()).hexdigest())
    if isinstance(store.lookup(ref.address), Miss):
        with store.attempt() as attempt:
            attempt.write_table(NEW_IMAGES, table)
            store.publish(ref.address, attempt, {"given": list(new.given)})
    return ref


class NewImage(NamedTuple):
    """An image that was read once, or the problem with which it cannot be scored."""

    image_sha256: str  # of the file; of the pixels if there is no file; empty with a problem
    width_px: int | None
    height_px: int | None
    problem: str | None
    pixels: Image | None  # its longest side at most the model's `resize_px`


def read_new_image(given: str | Image, max_megapixels: float, model: ModelRef) -> NewImage:
    """Read the file of a path as `keep_new_images` names it, or take an opened image.

    Raises `DataError` when the storage fails; whatever is wrong with the image itself is its problem.
    """
    try:
        if isinstance(given, str):
            content = Anywhere().read(given)
            sha256 = hashlib.sha256(content).hexdigest()
            with decoded(content, max_megapixels) as pixels:
                size = pixels.size
                pixels.thumbnail((model.resize_px, model.resize_px), Resampling.BICUBIC)
        else:
            pixels = opened_rgb(given, max_megapixels)
            size = pixels.size
            facts = f"{pixels.width}x{pixels.height} ".encode()
            sha256 = hashlib.sha256(facts + pixels.tobytes()).hexdigest()
            pixels.thumbnail((model.resize_px, model.resize_px), Resampling.BICUBIC)
    except (MissingImage, ValueError) as error:
        return NewImage("", None, None, str(error), None)
    if problem := _refused_shape(size, pixels, model):
        return NewImage("", *size, problem, None)
    return NewImage(sha256, *size, None, pixels)


def opener(resize_px: int) -> Callable[[str, str], Image]:
    """`open_image(path, sha256)` for images that were readable before."""
    source = Anywhere()

    def open_path(path: str, sha256: str) -> Image:
        return open_image(source, path, sha256, resize_px, max_megapixels=float("inf"))

    return open_path


def _refused_shape(size: tuple[int, int], resized: Image, model: ModelRef) -> str | None:
    """Why the family's image processor would refuse the image; None if it takes it."""
    if max(size) < _OUT_OF_PROPORTION * min(size):
        return None
    from pipeline_lib.vlm.families import check_image
    from pipeline_lib.vlm.load import load_config

    try:
        check_image(load_config(model).model_type, resized)
    except DataError as error:
        return str(error)
    return None


def _places(given: str, image_column: str, *, alone: bool, recursive: bool) -> tuple[list[_Place], pd.DataFrame | None]:
    """Every image of one argument, and the table that they stand in, a row an image."""
    whole = given if files.is_remote(given) else os.path.abspath(given)

    def named(folder: str, name: str) -> str:
        return name if alone else files.join(folder, name)

    if files.is_folder(whole):
        there = files.list_below(whole) if recursive else files.list_folder(whole)
        images = [name for name in there if files.ending(name) in files.IMAGE_ENDINGS]
        _tell_passed_over(given, [name for name in there if name not in set(images)], recursive=recursive)
        return [_place(named(given, name), files.join(whole, name)) for name in images], None
    if files.ending(whole) not in ENDINGS:
        return [_place(given, whole)], None
    if files.ending(whole) in (".parquet", ".pq"):
        kind = image_column_type(whole, image_column)
        if kind and holds_bytes(kind):
            rows = EmbeddedImages.of((whole,), image_column).names()
            places = [_place(named(given, name), json.dumps([whole, image_column, name])) for name in rows]
            return places, _without_images(whole, image_column)
    frame = read_frame(whole, [image_column])
    if image_column not in frame:
        raise DataError(
            f"{given} has no column {image_column}; its columns are {', '.join(map(str, frame.columns))}."
            " Name the column of the images: --set data.image_column=.."
        )
    names = ["" if pd.isna(name) else str(name) for name in frame[image_column]]
    if outside := [name for name in names if not is_safe(name) or "://" in name]:
        raise DataError(
            f"{given}: {len(outside)} image(s) are not below the table's own folder, e.g. {outside[0]}; write paths"
            " relative to the table"
        )
    folder = files.parent(whole)
    places = [
        _place(named(files.parent(given), name), files.join(folder, name))
        if name.strip()
        else _Place(f"row {row} of {given}", "", f"column {image_column} is empty")
        for row, name in enumerate(names, 1)
    ]
    return places, frame


def _without_images(path: str, image_column: str) -> pd.DataFrame:
    """The other columns of a Parquet file that holds images."""
    others = [name for name in parquet_schema(path).names if name != image_column]
    return files.with_file(path, lambda file: pq.read_table(file, columns=others)).to_pandas()


def _place(name: str, path: str) -> _Place:
    """A name that is no UTF-8 can stand in no table; such a file has to be renamed."""
    written = name.encode("utf-8", "backslashreplace").decode()
    return _Place(name, path) if written == name else _Place(written, "", "its name is not UTF-8; rename the file")


def _tell_passed_over(folder: str, names: list[str], *, recursive: bool) -> None:
    """Say what is in a folder and not scored, by kind."""
    if not names:
        return
    inner = (
        []
        if recursive
        else [name for name in names if not files.ending(name) and files.is_folder(files.join(folder, name))]
    )
    kinds = Counter(files.ending(name) or "without an ending" for name in names if name not in set(inner))
    parts = [f"{count:,} {kind}" for kind, count in kinds.most_common(8)]
    if len(kinds) > 8:
        parts.append(f"{sum(kinds.values()) - sum(count for _, count in kinds.most_common(8)):,} more")
    if inner:
        parts.append(f"{len(inner):,} folder(s), e.g. {inner[0]} (--recursive looks into them)")
    log.warning("%s: passed over %s", folder, ", ".join(parts))
