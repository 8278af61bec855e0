"""Images without scores: files, folders, tables of paths; local or on S3."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from PIL.Image import Image

from pipeline_lib.data import files
from pipeline_lib.data.frames import ENDINGS, read_frame
from pipeline_lib.data.images import decode, open_image
from pipeline_lib.data.sources import MissingImage, folder_source, is_safe
from pipeline_lib.errors import DataError
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, ArtifactStore, Miss
from pipeline_lib.tables.images import NEW_IMAGES


class Anywhere:
    """A source whose images have their full path as name."""

    def read(self, image: str) -> bytes:
        """The whole file; see `ImageSource`."""
        return folder_source(files.parent(image)).read(image.rsplit("/", 1)[-1])

    place = ""

    def version(self, image: str) -> str | None:
        """See `ImageSource`."""
        return folder_source(files.parent(image)).version(image.rsplit("/", 1)[-1])

    def names(self) -> Iterable[str]:
        """None: the images are in any folder."""
        return ()


def keep_new_images(
    store: ArtifactStore, given: Sequence[str], image_column: str, max_megapixels: float
) -> ArtifactRef:
    """Read every image once and keep their list with digests in the store.

    `given` are images, folders of images (not what is below), or tables whose column `image_column` holds paths
    relative to the table. An image that cannot be scored stays in the list, with its problem. Raises `DataError` when
    there is no image at all, a table has no such column, or the storage fails.
    """
    places = [place for item in given for place in _places(item, image_column)]
    if not places:
        count = ", ".join(files.IMAGE_ENDINGS)
        raise DataError(f"no image in {', '.join(given) or 'nothing'}; files that end in {count} count")
    progress = Progress("reading images", len(places))

    def look(place: tuple[str, str]) -> tuple[str, int | None, int | None, str | None]:
        try:
            content = Anywhere().read(place[1])
            decoded = decode(content, max_megapixels)
        except (MissingImage, ValueError) as error:
            return "", None, None, str(error)
        return hashlib.sha256(content).hexdigest(), decoded.width, decoded.height, None

    found = []
    with ThreadPoolExecutor() as pool:
        for facts in pool.map(look, places):
            found.append(facts)
            progress.advance()
    names, paths = zip(*places, strict=True)
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
            store.publish(ref.address, attempt, {"given": list(given)})
    return ref


def opener(resize_px: int) -> Callable[[str, str], Image]:
    """`open_image(path, sha256)` for images that were readable before."""
    source = Anywhere()

    def open_path(path: str, sha256: str) -> Image:
        return open_image(source, path, sha256, resize_px, max_megapixels=float("inf"))

    return open_path


def _places(given: str, image_column: str) -> list[tuple[str, str]]:
    """Name and full path of every image of one argument."""
    whole = given if files.is_remote(given) else os.path.abspath(given)
    if files.is_folder(whole):
        return [(name, files.join(whole, name)) for name in files.image_names(whole)]
    if files.ending(whole) in ENDINGS:
        frame = read_frame(whole, [image_column])
        if image_column not in frame:
            raise DataError(
                f"{given} has no column {image_column}; its columns are {', '.join(map(str, frame.columns))}."
                " Name the column of the images: --set data.image_column=.."
            )
        names = [str(name) for name in frame[image_column]]
        if outside := [name for name in names if not is_safe(name) or "://" in name]:
            raise DataError(
                f"{given}: {len(outside)} image(s) are not below the table's own folder, e.g. {outside[0]}; write paths"
                " relative to the table"
            )
        return [(name, files.join(files.parent(whole), name)) for name in names]
    return [(given, whole)]
