"""The Arrow schema of every table that a stage publishes, in one place.

Bump `VERSION` when a reader of the old tables would go wrong: artifacts of another version are misses, not guesses.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.errors import StoreError

VERSION = 2


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_IMAGE = [
    _required("image", pa.string()),  # as written in the user's table, relative to the image folder
    _required("image_sha256", pa.string()),
]

IMAGES = pa.schema(
    [
        *_IMAGE,
        _required("width_px", pa.int32()),
        _required("height_px", pa.int32()),
        _required("score", pa.float64()),  # on the data set's own scale
        _required("bin", pa.int8()),  # 0..9
        _required("split", pa.string()),  # train, val or test
        _required("group", pa.string()),
    ]
)
"""One row a readable image. The user's other columns follow behind these."""

UNREADABLE_IMAGES = pa.schema([_required("image", pa.string()), _required("reason", pa.string())])

BINS = pa.schema(
    [
        _required("bin", pa.int8()),
        _required("lower", pa.float64()),  # exclusive; -inf for bin 0
        _required("upper", pa.float64()),  # inclusive; +inf for bin 9
        _required("mean_score", pa.float64()),  # of the training images in the bin
        _required("train_images", pa.int64()),
    ]
)

PREFERENCE_PAIRS = pa.schema(
    [
        *_IMAGE,
        _required("prompt", pa.string()),  # rendered with the model's chat template
        _required("true_score", pa.int8()),
        _required("wrong_score", pa.int8()),
        _required("chosen", pa.string()),  # the assistant's turn: "#Score: 7\n\n#Explain: .."
        _required("rejected", pa.string()),
        _required("prompt_tokens", pa.int32()),  # image tokens included
        _required("chosen_tokens", pa.int32()),  # of the whole answer
        _required("rejected_tokens", pa.int32()),
        _required("chosen_finished", pa.bool_()),  # ended by itself, not at max_new_tokens
        _required("rejected_finished", pa.bool_()),
    ]
)
"""Score pairs and consistency pairs: one row an image."""

REFERENCE_LOGPS = pa.schema(
    [
        *_IMAGE,
        _required("answer", pa.string()),  # chosen, rejected; swapped: the rejected one with the true score
        _required("text_sha256", pa.string()),  # of prompt and answer as they are trained
        _required("logp", pa.float64()),  # nats, summed over the answer, under the base without adapter
    ]
)
"""What the reference of DPO makes of the answers of score pairs and consistency pairs: two or three rows an image."""

TRAINING_LOG = pa.schema(
    [
        _required("step", pa.int32()),
        _required("loss", pa.float64()),
        _required("learning_rate", pa.float64()),
        _required("grad_norm", pa.float64()),
        _required("reward_margin", pa.float64()),  # beta x (log-ratio of chosen - log-ratio of rejected), nats
        _required("reward_accuracy", pa.float64()),
        _required("chosen_logp", pa.float64()),  # nats, summed over the answer
        _required("rejected_logp", pa.float64()),
    ]
)

SFT_LOG = pa.schema(
    [
        _required("step", pa.int32()),
        _required("loss", pa.float64()),  # nats a token
        _required("learning_rate", pa.float64()),
        _required("grad_norm", pa.float64()),
        _required("token_accuracy", pa.float64()),  # share of the target's tokens that are the likeliest ones
    ]
)
"""The training log of supervised fine-tuning (flow `ablation`)."""

PREDICTIONS = pa.schema(
    [
        *_IMAGE,
        _required("split", pa.string()),
        _required("score", pa.float64()),
        _required("bin", pa.int8()),
        _required("score_distribution", pa.list_(pa.float64(), 10)),  # softmax over the ten digit logits
        _required("digit_mass", pa.float64()),  # probability of the ten digits among all tokens
        _required("predicted_unfitted", pa.float64()),  # reference values: mean training score of each bin
        _required("predicted_fitted", pa.float64()),  # reference values: least squares on validation
        _required("text", pa.string()),  # the greedy answer as it came
        _required("text_tokens", pa.int32()),
        _required("parsed", pa.bool_()),
        pa.field("stated_score", pa.int8()),  # null when not parsed
        pa.field("explanation", pa.string()),  # null when not parsed
    ]
)

NEW_IMAGES = pa.schema(
    [
        _required("image", pa.string()),  # as it was asked for
        _required("path", pa.string()),  # absolute, or s3://
        _required("image_sha256", pa.string()),  # empty when it could not be read
        pa.field("width_px", pa.int32()),
        pa.field("height_px", pa.int32()),
        pa.field("problem", pa.string()),  # why it cannot be scored; null when it can
    ]
)
"""Images without scores, to predict (flow `predict`)."""

NEW_PREDICTIONS = pa.schema(
    [
        *_IMAGE,
        pa.field("predicted", pa.float64()),  # on the data set's own scale: fitted reference values of the run
        pa.field("score_distribution", pa.list_(pa.float64(), 10)),
        pa.field("digit_mass", pa.float64()),
        pa.field("parsed", pa.bool_()),
        pa.field("stated_score", pa.int8()),  # null when not parsed
        pa.field("explanation", pa.string()),
        pa.field("text", pa.string()),
        pa.field("problem", pa.string()),  # why there is no prediction; null when there is one
    ]
)
"""One row an image that was asked for, in that order; see `PREDICTIONS`."""

REFERENCE_VALUES = pa.schema(
    [_required("bin", pa.int8()), _required("unfitted", pa.float64()), _required("fitted", pa.float64())]
)

METRICS = pa.schema(
    [
        _required("split", pa.string()),
        _required("metric", pa.string()),  # plcc, srcc, rmse (x _fitted, _unfitted), parse_rate, cons, use, gen, ..
        _required("value", pa.float64()),
        _required("low", pa.float64()),  # bootstrap interval
        _required("high", pa.float64()),
        _required("rows", pa.int64()),
    ]
)

VERDICTS = pa.schema(
    [
        *_IMAGE,
        _required("split", pa.string()),
        _required("judge", pa.string()),  # round_trip, or the name of the judge model
        # scored; unparsed: no explanation reached the judge; refused, malformed: the judge gave no usable verdict
        _required("status", pa.string()),
        pa.field("stated_score", pa.int8()),
        pa.field("recovered_score", pa.float64()),  # of the round-trip judge alone
        pa.field("consistency", pa.int8()),  # 0 bad .. 4 excellent
        pa.field("usefulness", pa.int8()),  # the same scale; null for the round-trip judge
        pa.field("general", pa.int8()),
    ]
)

ANCHOR_VERDICTS = pa.schema(
    [*VERDICTS, _required("iteration", pa.int32()), _required("kind", pa.string())],
)
"""The verdicts of one judge on the explanations in `ANCHORS`, in the same order."""

ANCHORS = pa.schema(
    [
        *_IMAGE,
        _required("iteration", pa.int32()),
        _required("kind", pa.string()),  # zero-shot, score, consistency or merged
        pa.field("stated_score", pa.int8()),  # null when not parsed
        pa.field("explanation", pa.string()),
    ]
)
"""The same test images of every evaluated model: what a later judge re-scores."""

FAITHFULNESS = pa.schema(
    [
        *_IMAGE,
        _required("stated_score", pa.int8()),
        _required("recovered_score", pa.float64()),  # read from the explanation alone, without image or numbers
        _required("explanation", pa.string()),  # the model's own, for this image and its stated score
        _required("other_image", pa.string()),
        _required("other_explanation", pa.string()),  # for the same stated score with the other image
        _required("text_change", pa.float64()),  # 0 the same words .. 1 no word in common
        _required("mentions_own_score", pa.bool_()),  # the stated score stands in the explanation as a number
        _required("mentions_other_score", pa.bool_()),  # another number 0..9 stands there as a score
    ]
)

JUDGE_TERMS = pa.schema(
    [_required("term", pa.string()), _required("idf", pa.float64()), _required("weight", pa.float64())]
)
"""The round-trip judge as a table: score = intercept + sum of tf-idf x weight. The empty term holds the intercept."""

JUDGE_HOLDOUT = pa.schema(
    [
        _required("image", pa.string()),
        _required("injected_score", pa.int8()),
        _required("recovered_score", pa.float64()),
    ]
)


def conform(table: pa.Table, schema: pa.Schema, *, extra_columns: bool = False) -> pa.Table:
    """Put the columns in the schema's order and cast them; `extra_columns` keeps further columns behind them.

    Raises `StoreError` when a column is missing, does not cast, or holds nulls where the schema allows none.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise StoreError(f"table lacks column(s) {', '.join(missing)}; it has {', '.join(table.column_names)}")
    more = [name for name in table.column_names if name not in schema.names]
    if more and not extra_columns:
        raise StoreError(f"table has column(s) {', '.join(more)} that its schema does not know")
    fields = [*schema, *(table.schema.field(name) for name in more)]
    table = table.select([field.name for field in fields])
    for field in schema:
        nulls = table.column(field.name).null_count
        if nulls and not field.nullable:
            raise StoreError(f"column {field.name} holds {nulls} null(s) where its schema allows none")
    try:
        return table.cast(pa.schema(fields))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StoreError(f"table does not fit its schema: {error}") from error


def write_parquet(path: Path, table: pa.Table, schema: pa.Schema, *, extra_columns: bool = False) -> int:
    """Write a conforming table and return its number of rows; equal tables give equal bytes."""
    conformed = conform(table, schema, extra_columns=extra_columns)
    pq.write_table(conformed, path, compression="zstd")
    return int(conformed.num_rows)
