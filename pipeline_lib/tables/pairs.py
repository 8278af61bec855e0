"""Preference pairs and the reference's log-probabilities."""

import pyarrow as pa

from pipeline_lib.tables.images import IMAGE
from pipeline_lib.tables.table import Table, required

PREFERENCE_PAIRS = Table(
    "preference_pairs",
    1,
    pa.schema(
        [
            *IMAGE,
            required("prompt", pa.string()),  # rendered with the model's chat template
            required("chosen", pa.string()),  # the assistant's turn
            required("rejected", pa.string()),
            required("prompt_tokens", pa.int32()),  # image tokens included
            required("chosen_tokens", pa.int32()),  # of the whole answer
            required("rejected_tokens", pa.int32()),
            required("chosen_finished", pa.bool_()),  # ended by itself, not at max_new_tokens
            required("rejected_finished", pa.bool_()),
        ]
    ),
)
"""One row a pair of answers; a method adds its own columns."""

REFERENCE_LOGPS = Table(
    "reference_logps",
    1,
    pa.schema(
        [
            *IMAGE,
            required("answer", pa.string()),  # chosen, rejected; swapped: the rejected one with the true score
            required("text_sha256", pa.string()),  # of prompt and answer as they are trained
            required("logp", pa.float64()),  # nats, summed over the answer, under the base without adapter
        ]
    ),
)
"""Log-probabilities of the answers of preference pairs under DPO's reference: two or three rows an image."""
