"""The tables that stic's stages publish; shared ones are in `pipeline_lib.tables`."""

import pyarrow as pa

from pipeline_lib.tables.images import IMAGE, IMAGES
from pipeline_lib.tables.pairs import PREFERENCE_PAIRS
from pipeline_lib.tables.table import Table, required

PREFERENCES = Table(
    "preferences",
    1,
    pa.schema(
        [
            *PREFERENCE_PAIRS.schema,
            required("rejected_by", pa.string()),  # bad_prompt, low_resolution, color_jitter
            required("plain_prompt", pa.string()),  # the text that `prompt` renders
            required("rejected_prompt", pa.string()),  # the text that the rejected answer is to
            pa.field("brightness", pa.float64()),  # of colour jitter: the factor
            pa.field("hue", pa.float64()),  # of colour jitter: the turn, a share of a circle
        ]
    ),
)
"""A row an image: the plain prompt with the clean image, and both answers."""

IMAGE_LIST = pa.list_(pa.struct(list(IMAGES.schema)))

TEXTS = pa.list_(pa.string())

QUESTIONS = Table(
    "questions",
    1,
    pa.schema(
        [
            required("row", pa.int64()),  # of the user's table, from 0
            required("images", IMAGE_LIST),  # one; none in a row of text alone
            required("question", pa.string()),  # as the model is asked
            required("answers", TEXTS),  # the reference answers
            required("choices", TEXTS),  # empty: none
            required("group", pa.string()),
            pa.field("shows", TEXTS),  # names of what the image shows; null: not known
            pa.field(
                "statements",  # what is right and wrong to say of the image, by topic; null: not known
                pa.list_(pa.struct([("topic", pa.string()), ("right", TEXTS), ("wrong", TEXTS)])),
            ),
        ]
    ),
)
"""Questions with reference answers, their images read."""

QUESTION_IMAGES = Table("images", 1, IMAGES.schema)
"""The images of questions, each once."""

DESCRIPTIONS = Table(
    "descriptions",
    1,
    pa.schema(
        [
            *IMAGE,
            required("description", pa.string()),
            required("tokens", pa.int32()),
            required("finished", pa.bool_()),
            required("image_tokens", pa.int32()),  # tokens that the image takes in a prompt
        ]
    ),
)

INFUSED = Table(
    "infused",
    1,
    pa.schema(
        [
            required("images", IMAGE_LIST),
            required("prompt", pa.string()),  # rendered with the model's chat template
            required("chosen", pa.string()),  # the answer, unchanged
            required("prompt_tokens", pa.int32()),  # image tokens included
            required("chosen_tokens", pa.int32()),
            required("chosen_finished", pa.bool_()),
            pa.field("description", pa.string()),  # null in a row of text alone
        ]
    ),
)
"""Instructions for stage 2."""

ANSWERS = Table(
    "answers",
    1,
    pa.schema(
        [
            required("row", pa.int64()),
            required("answer", pa.string()),
            required("finished", pa.bool_()),
        ]
    ),
)
"""A model's answers in one way of asking."""

PREDICTIONS = Table(
    "stic_predictions",
    1,
    pa.schema(
        [
            required("row", pa.int64()),
            required("images", IMAGE_LIST),
            required("group", pa.string()),
            required("question", pa.string()),
            required("answers", TEXTS),  # the reference answers
            required("direct", pa.string()),
            required("direct_right", pa.float64()),  # 0..1
            required("direct_read", pa.bool_()),  # it has the form that is scored: a letter, a number
            required("described", pa.string()),  # the answer behind the model's own description
            required("described_right", pa.float64()),
            required("described_read", pa.bool_()),
        ]
    ),
)
"""A row a question: both answers of a model and how far they are right."""

STATEMENT = pa.struct([("topic", pa.string()), ("words", pa.string()), ("right", pa.bool_())])

CHECKED = Table(
    "checked_descriptions",
    1,
    pa.schema(
        [
            *IMAGE,
            required("group", pa.string()),
            required("description", pa.string()),
            required("words", pa.int32()),
            required("checked_words", pa.int32()),  # those that are part of a statement
            pa.field("statements", pa.list_(STATEMENT)),  # null: not known what is right
            pa.field("absent", TEXTS),  # names of things that are not there; null: not known
        ]
    ),
)
"""A row an image: a model's description, and what is right and wrong in it."""

DIFFERENCES = Table(
    "stic_differences",
    1,
    pa.schema(
        [
            required("earlier", pa.string()),
            required("later", pa.string()),
            required("metric", pa.string()),
            required("value", pa.float64()),  # of the later model less that of the earlier one, on the same rows
            required("low", pa.float64()),
            required("high", pa.float64()),
            required("rows", pa.int64()),
            required("change", pa.string()),
        ]
    ),
)
"""Paired differences of a run's models."""
