"""One image, decoded as all images are."""

from PIL import Image

from pipeline_lib.data.images import decoded


def decode(content: bytes, max_megapixels: float) -> Image.Image:
    """The whole image, after others may be decoded again."""
    with decoded(content, max_megapixels) as image:
        return image
