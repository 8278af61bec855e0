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

GRPO_LOG = Table(
    "training_log",
    1,
    pa.schema(
        [
            required("step", pa.int32()),
            required("loss", pa.float64()),
            required("learning_rate", pa.float64()),
            required("grad_norm", pa.float64()),
            required("reward", pa.float64()),  # sum of the parts, mean over the step's answers
            required("reward_parts", pa.list_(pa.struct([("part", pa.string()), ("mean", pa.float64())]))),
            required("kl", pa.float64()),  # nats a token, from the base without adapter; 0 where beta is 0
            required("entropy", pa.float64()),  # nats a token
            required("clip_share", pa.float64()),  # of tokens; 0, because each sample is trained on once
            required("no_variance_share", pa.float64()),  # images whose answers all have one reward: nothing to learn
            required("parse_rate", pa.float64()),  # share of answers that the reward function could read
            required("answer_tokens", pa.float64()),  # mean length, end token included
            required("longest_answer_tokens", pa.int32()),
            required("truncated_share", pa.float64()),  # answers that the length limit cut off
        ]
    ),
)
"""The log of GRPO. The speed is in progress lines alone, so that equal trainings have equal logs."""
