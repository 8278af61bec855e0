"""The images of a run and their place."""

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config.base import ImageData, Runtime
from pipeline_lib.data.embedded import EmbeddedImages
from pipeline_lib.data.pixels import PixelCache
from pipeline_lib.store.key import ArtifactRef
from pipeline_lib.tables.images import MADE_IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image


_ANY_SIZE_PX = 1_000_000


class MadeImages(BaseModel):
    """Images that a stage made: its artifact with a table `MADE_IMAGES`, in the store that the stage wrote to."""

    model_config = ConfigDict(frozen=True)

    artifact: ArtifactRef
    store: str

    def source(self) -> EmbeddedImages:
        """Reads their files by their names."""
        from pipeline_lib.store import ArtifactStore

        path = ArtifactStore(self.store).file(self.artifact.address, f"{MADE_IMAGES.name}.parquet")
        return EmbeddedImages.of((path,), "file")


class ImageSet(BaseModel):
    """A table of images, the place of its image files (a folder, a prefix, Parquet files), and their cache.

    With `made`, the images that a stage made from them are opened by their names too.
    """

    model_config = ConfigDict(frozen=True)

    table: ArtifactRef
    folder: str
    max_megapixels: float
    embedded: EmbeddedImages | None = None
    pixels: PixelCache | None = None
    made: MadeImages | None = None

    @classmethod
    def of(cls, data: ImageData, table: ArtifactRef, runtime: Runtime | None = None) -> "ImageSet":
        """The images of a recipe's data section, with the pixel cache of its `runtime`."""
        from pipeline_lib.data.user_table import image_folder, locate

        embedded = locate(data).embedded if data.dataset == "table" else None
        pixels = None
        if runtime and runtime.pixel_cache:
            pixels = PixelCache(folder=runtime.pixel_cache, limit_gb=runtime.pixel_cache_gb)
        return cls(
            table=table,
            folder=image_folder(data),
            max_megapixels=data.max_megapixels,
            embedded=embedded,
            pixels=pixels,
        )

    def key_fields(self) -> dict[str, Any]:
        """The table, which holds the digest of every image, so the folder may move; and the images that were made."""
        return {"table": self.table} | ({"made": self.made.artifact} if self.made else {})

    def with_made(self, artifact: ArtifactRef, store: str) -> "ImageSet":
        """The same with images that a stage made."""
        return self.model_copy(update={"made": MadeImages(artifact=artifact, store=store)})

    def full_size_opener(self) -> "Callable[[str, str], Image]":
        """`open_image(image, sha256)`: the image as it is in its file, checked against its digest."""
        return self.model_copy(update={"pixels": None}).opener(_ANY_SIZE_PX)

    def opener(self, resize_px: int) -> "Callable[[str, str], Image]":
        """`open_image(image, sha256)`: the image, checked against its digest and resized for the model."""
        from pipeline_lib.data.images import open_image
        from pipeline_lib.data.sources import ImageSource, WithMade, folder_source

        source: ImageSource = self.embedded or folder_source(self.folder)
        if self.made:
            source = WithMade(source, self.made.source())
        return partial(open_image, source, resize_px=resize_px, max_megapixels=self.max_megapixels, pixels=self.pixels)
