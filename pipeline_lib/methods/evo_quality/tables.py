"""Tables of evo_quality alone."""

import pyarrow as pa

from pipeline_lib.tables.images import IMAGES
from pipeline_lib.tables.table import Table, required

TWO_IMAGES = required("images", pa.list_(pa.struct(list(IMAGES.schema))))

PAIRS = Table(
    "pairs",
    1,
    pa.schema(
        [
            required("pair", pa.string()),  # names it in the run: round and number
            TWO_IMAGES,
            required("kind", pa.string()),  # `images`: two images; `variants`: two variants of one image
        ]
    ),
)

VOTES = Table(
    "votes",
    1,
    pa.schema(
        [
            *PAIRS.schema,
            required("first_votes", pa.float64()),  # for the first image of the pair, in whatever order it was shown
            required("second_votes", pa.float64()),  # counts; probabilities where votes are exact
            required("unparsed", pa.int32()),  # answers that could not be read
            required("shown_swapped", pa.int32()),  # answers to the second image before the first
            required("said_first", pa.float64()),  # answers for the image that was shown first, whichever that was
            pa.field("preference", pa.float64()),  # label for the first image, 0..1; null: no answer could be read
            required("answers", pa.list_(pa.struct([("swapped", pa.bool_()), ("text", pa.string())]))),
        ]
    ),
)

RATINGS = Table(
    "ratings",
    1,
    pa.schema(
        [
            *IMAGES.schema,
            pa.field("score", pa.float64()),  # the label; null where there is none
            required("group", pa.string()),
            required("answers", pa.list_(pa.string())),  # sampled
            required("ratings", pa.list_(pa.float64())),  # of those that could be read, 1..5
            pa.field("mean", pa.float64()),  # of them; null: none could be read
            pa.field("spread", pa.float64()),  # their standard deviation; null for fewer than two
            required("stated_answer", pa.string()),  # greedy
            pa.field("stated", pa.float64()),
            pa.field("covered", pa.float64()),  # of an expectation: probability of the answers that were followed
            pa.field("readable", pa.float64()),  # of an expectation: share of `covered` that could be read
        ]
    ),
)

NEW_RATINGS = Table(
    "new_ratings",
    1,
    pa.schema(
        [
            required("image", pa.string()),  # as it was asked for
            pa.field("rating", pa.float64()),  # mean of the sampled ratings, 1..5; null: none could be read
            pa.field("spread", pa.float64()),  # of the sampled ratings
            pa.field("stated", pa.float64()),  # the greedy rating
            required("ratings", pa.int32()),  # how many sampled ones could be read
            pa.field("stated_answer", pa.string()),
            pa.field("problem", pa.string()),  # why there is no rating
        ]
    ),
)
