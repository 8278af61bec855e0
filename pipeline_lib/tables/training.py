"""Logs of trainings: one row an optimizer step."""

import pyarrow as pa

from pipeline_lib.tables.table import Table, required

TRAINING_LOG = Table(
    "training_log",
    1,
    pa.schema(
        [
            required("step", pa.int32()),
            required("loss", pa.float64()),
            required("learning_rate", pa.float64()),
            required("grad_norm", pa.float64()),
            required("reward_margin", pa.float64()),  # beta x (log-ratio of chosen - log-ratio of rejected), nats
            required("reward_accuracy", pa.float64()),
            required("chosen_logp", pa.float64()),  # nats, summed over the answer
            required("rejected_logp", pa.float64()),
        ]
    ),
)
"""The log of DPO."""

SFT_LOG = Table(
    "training_log",
    1,
    pa.schema(
        [
            required("step", pa.int32()),
            required("loss", pa.float64()),  # nats a token
            required("learning_rate", pa.float64()),
            required("grad_norm", pa.float64()),
            required("token_accuracy", pa.float64()),  # share of the target's tokens that are the likeliest ones
        ]
    ),
)
"""The log of supervised fine-tuning."""
