"""The tables of self_judge."""

import pyarrow as pa

from pipeline_lib.tables.images import IMAGE, IMAGES
from pipeline_lib.tables.table import Table, required

_SHAPE = [*IMAGES.schema]

MULTIMODAL_PROMPTS = Table(
    "multimodal_prompts",
    1,
    pa.schema(
        [
            *_SHAPE,
            required("prompt_id", pa.string()),  # image, kind and number of the question
            required("split", pa.string()),
            required("group", pa.string()),
            required("kind", pa.string()),  # open or closed
            required("question", pa.string()),
            pa.field("answer", pa.string()),  # the known one; null where there is none
        ]
    ),
)
"""One row a question about an image."""

_PAIR = [
    *_SHAPE,
    required("pair_id", pa.string()),
    required("group", pa.string()),
    required("question", pa.string()),
]

SYNTHESIS = Table(
    "synthesis",
    1,
    pa.schema(
        [
            *_PAIR,
            required("kind", pa.string()),
            # pair; equal, length, unfinished, few_votes, no_other, not_known: the reason why there is none
            required("status", pa.string()),
            pa.field("better", pa.string()),
            pa.field("worse", pa.string()),
            pa.field("votes", pa.int32()),  # samples that are the better answer; null for an open question
            pa.field("better_is_known", pa.bool_()),  # null where no answer is known
            pa.field("worse_is_known", pa.bool_()),
        ]
    ),
)
"""One row a question: the synthetic preference pair, or why there is none."""

REASONS = Table(
    "reasons",
    1,
    pa.schema(
        [
            *IMAGE,
            required("pair_id", pa.string()),
            required("group", pa.string()),
            required("kind", pa.string()),
            required("better_letter", pa.string()),  # A or B: where the better answer stands
            required("sample", pa.int32()),
            required("prompt", pa.string()),  # as rendered
            required("text", pa.string()),
            pa.field("verdict", pa.string()),  # null: unparsable
            required("prompt_tokens", pa.int32()),
            required("tokens", pa.int32()),
            required("finished", pa.bool_()),
        ]
    ),
)
"""What the judge said about a pair: a row a sample in each of the two orders."""

TRACES = Table(
    "traces",
    1,
    pa.schema(
        [
            *IMAGE,
            required("pair_id", pa.string()),
            required("group", pa.string()),
            required("kind", pa.string()),
            required("better_letter", pa.string()),
            required("prompt", pa.string()),
            required("chosen", pa.string()),  # the reason with its verdict
            required("prompt_tokens", pa.int32()),
            required("chosen_tokens", pa.int32()),
            required("chosen_finished", pa.bool_()),
        ]
    ),
)
"""The kept reasons, as rows of supervised training."""

FILTERED = Table(
    "filtered",
    1,
    pa.schema(
        [
            required("pair_id", pa.string()),
            required("kind", pa.string()),
            required("status", pa.string()),  # kept, wrong, inconsistent, unparsable
            pa.field("verdict_first", pa.string()),  # of the first sample, with the better answer as A
            pa.field("verdict_second", pa.string()),  # the same with the better answer as B
        ]
    ),
)
"""One row a pair: what became of its reasons."""

ANSWER_PAIRS = Table(
    "answer_pairs",
    1,
    pa.schema(
        [
            *_PAIR,
            required("dimension", pa.string()),
            required("better", pa.string()),
            required("worse", pa.string()),
        ]
    ),
)
"""Pairs to measure with; an artifact of them holds the table `images` too."""

JUDGEMENTS = Table(
    "judgements",
    1,
    pa.schema(
        [
            *IMAGE,
            required("pair_id", pa.string()),
            required("group", pa.string()),
            required("dimension", pa.string()),
            required("question", pa.string()),
            required("better", pa.string()),
            required("worse", pa.string()),
            required("text_first", pa.string()),  # with the better answer as A
            required("text_second", pa.string()),  # with the better answer as B
            pa.field("verdict_first", pa.string()),
            pa.field("verdict_second", pa.string()),
            pa.field("p_better_first", pa.float64()),  # probability of the better answer at the verdict; null: not read
            pa.field("p_better_second", pa.float64()),
        ]
    ),
)
"""One row a pair: the judge's greedy answers in both orders."""
