"""Images whose shape a model's family refuses, found in the image table, before a model is loaded."""

import pyarrow as pa

from pipeline_lib.vlm.model_ref import ModelRef

ELONGATED = 20
"""No family refuses images that are less elongated, so that its code need not be imported for them."""


def check_shapes_of(images: pa.Table, model: ModelRef) -> None:
    """Raise `DataError` for images (`image`, `width_px`, `height_px`) of a shape that the model's family refuses."""
    names, widths, heights = (images[name].to_pylist() for name in ("image", "width_px", "height_px"))
    sizes = list(zip(widths, heights, strict=True))
    if all(max(size) <= ELONGATED * min(size) for size in sizes):
        return
    from pipeline_lib.vlm.families import check_shapes
    from pipeline_lib.vlm.load import load_config

    check_shapes(load_config(model).model_type, names, sizes, model.resize_px)
