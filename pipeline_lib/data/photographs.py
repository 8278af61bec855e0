"""Where a run's photographs are."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.recipe import Data
from pipeline_lib.store.key import ArtifactRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image


class Photographs(BaseModel):
    """The discretised image table, and the folder its image files lie in."""

    model_config = ConfigDict(frozen=True)

    table: ArtifactRef
    folder: str
    max_megapixels: float

    @classmethod
    def of(cls, data: Data, table: ArtifactRef) -> "Photographs":
        """The photographs of a recipe's data section."""
        return cls(table=table, folder=data.images or str(Path(data.table).parent), max_megapixels=data.max_megapixels)

    def key_fields(self) -> dict[str, Any]:
        """The table alone: it holds the digest of every image, so the folder may move."""
        return {"table": self.table}

    def opener(self, resize_px: int) -> "Callable[[str, str], Image]":
        """`open_image(image, sha256)`: the picture, checked against its digest and resized for the model."""
        from pipeline_lib.data.images import open_image

        folder = Path(self.folder)
        return partial(open_image, folder, resize_px=resize_px, max_megapixels=self.max_megapixels)
