"""The toy's tables."""

import pyarrow as pa

from pipeline_lib.tables.images import IMAGES
from pipeline_lib.tables.table import Table, required

_TWO = required("images", pa.list_(pa.struct(list(IMAGES.schema))))

ANSWERS = Table(
    "toy_answers",
    1,
    pa.schema(
        [
            _TWO,
            required("prompt", pa.string()),
            required("text", pa.string()),
            required("prompt_tokens", pa.int32()),
            required("tokens", pa.int32()),
            required("finished", pa.bool_()),
        ]
    ),
)

KEPT = Table(
    "toy_kept",
    1,
    pa.schema(
        [
            _TWO,
            required("prompt", pa.string()),
            required("chosen", pa.string()),
            required("prompt_tokens", pa.int32()),
            required("chosen_tokens", pa.int32()),
            required("chosen_finished", pa.bool_()),
        ]
    ),
)
