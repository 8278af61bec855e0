from PIL import Image

from pipeline_lib.data.files import IMAGE_ENDINGS
from pipeline_lib.data.images import FORMATS


def test_every_ending_of_a_readable_format_is_one_of_an_image() -> None:
    endings = Image.registered_extensions()
    readable = {ending for ending, kind in endings.items() if kind in (*FORMATS, "MPO")}  # an MPO is a JPEG
    assert readable == set(IMAGE_ENDINGS)
