"""Tables of images."""

import re

import pyarrow as pa

from pipeline_lib.tables.table import Table, required

IMAGE = (
    required("image", pa.string()),  # as written in the user's table, relative to the image folder
    required("image_sha256", pa.string()),
)
"""The columns by which every table names an image."""

VOTES_COLUMN = re.compile(r"votes_-?[0-9.]+")
"""Columns of users and data sets with the raters' votes: `votes_<score>`, on the scale of the scores."""

IMAGES = Table(
    "images",
    1,
    pa.schema([*IMAGE, required("width_px", pa.int32()), required("height_px", pa.int32())]),
)
"""One row a readable image; split, group and the user's other columns follow behind these."""

MADE_PREFIX = "made:"
"""The beginning of the names of images that a stage made, which no user's image may have."""

MADE_IMAGES = Table(
    "made_images",
    1,
    pa.schema(
        [
            *IMAGES.schema,
            required("source", pa.string()),  # the image that it was made from
            required("what", pa.string()),  # what was done to that
            required("level", pa.int8()),  # how much of it, from 1 on
            required("file", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # the path is its name
        ]
    ),
)
"""Images that a stage made from others, with their files."""

UNREADABLE_IMAGES = Table(
    "unreadable_images",
    1,
    pa.schema([required("image", pa.string()), required("reason", pa.string())]),
)

NEW_IMAGES = Table(
    "new_images",
    1,
    pa.schema(
        [
            required("image", pa.string()),  # as it was asked for
            required("path", pa.string()),  # absolute, or s3://
            required("image_sha256", pa.string()),  # empty when it could not be read
            pa.field("width_px", pa.int32()),
            pa.field("height_px", pa.int32()),
            pa.field("problem", pa.string()),  # why it cannot be scored; null when it can
        ]
    ),
)
"""Images without scores, to predict (flow `predict`)."""

NEAR_DUPLICATES = Table(
    "near_duplicates",
    1,
    pa.schema(
        [
            required("image", pa.string()),
            required("split", pa.string()),
            required("other_image", pa.string()),
            required("other_split", pa.string()),
            required("bits", pa.int8()),  # in which their perceptual hashes differ
            required("correlation", pa.float64()),  # of their brightness
        ]
    ),
)
"""Pairs of images in different splits that look the same."""
