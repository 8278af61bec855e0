"""The tables of self_improve, with scores, bins, verdicts, anchors and faithfulness."""

import pyarrow as pa

from pipeline_lib.tables.images import IMAGE
from pipeline_lib.tables.pairs import PREFERENCE_PAIRS
from pipeline_lib.tables.table import Table, required

IMAGES = Table(
    "images",
    1,
    pa.schema(
        [
            *IMAGE,
            required("width_px", pa.int32()),
            required("height_px", pa.int32()),
            required("score", pa.float64()),  # on the data set's own scale
            required("bin", pa.int8()),  # 0..9
            required("split", pa.string()),  # train, val or test
            required("group", pa.string()),
        ]
    ),
)
"""One row a readable image. The user's other columns follow behind these."""

BINS = Table(
    "bins",
    1,
    pa.schema(
        [
            required("bin", pa.int8()),
            required("lower", pa.float64()),  # exclusive; -inf for bin 0
            required("upper", pa.float64()),  # inclusive; +inf for bin 9
            required("mean_score", pa.float64()),  # of the training images in the bin
            required("train_images", pa.int64()),
        ]
    ),
)

_PAIR = list(PREFERENCE_PAIRS.schema)
_AFTER_PROMPT = PREFERENCE_PAIRS.schema.get_field_index("prompt") + 1
_PAIRS = pa.schema(
    [
        *_PAIR[:_AFTER_PROMPT],
        required("true_score", pa.int8()),
        required("wrong_score", pa.int8()),
        *_PAIR[_AFTER_PROMPT:],
    ]
)

SCORE_PAIRS = Table("score_pairs", 1, _PAIRS)
"""One row an image; the answers are "#Score: 7\\n\\n#Explain: ..", with the true and with the wrong score."""

CONSISTENCY_PAIRS = Table("consistency_pairs", 1, _PAIRS)
"""The same columns; both answers state the true score."""

MODEL_ANSWERS = Table(
    "answers",
    1,
    pa.schema(
        [
            ("image", pa.string()),
            ("image_sha256", pa.string()),
            ("split", pa.string()),
            ("score", pa.float64()),
            ("bin", pa.int8()),
            ("score_distribution", pa.list_(pa.float64(), 10)),
            ("digit_mass", pa.float64()),
            ("text", pa.string()),
            ("text_tokens", pa.int32()),
            ("parsed", pa.bool_()),
            ("stated_score", pa.int8()),
            ("explanation", pa.string()),
        ]
    ),
)
"""A model's answers to each image (shards of `evaluate`): `PREDICTIONS` before the reference values are known."""

PREDICTIONS = Table(
    "predictions",
    2,  # 2: group, monotone reading and intervals
    pa.schema(
        [
            *IMAGE,
            required("split", pa.string()),
            required("score", pa.float64()),
            required("bin", pa.int8()),
            required("group", pa.string()),  # images that are alike; intervals of figures resample groups
            required("score_distribution", pa.list_(pa.float64(), 10)),  # softmax over the ten digit logits
            required("digit_mass", pa.float64()),  # probability of the ten digits among all tokens
            required("predicted_unfitted", pa.float64()),  # reference values: mean training score of each bin
            required("predicted_fitted", pa.float64()),  # reference values: least squares on validation
            # Reference values: fitted on validation, in order and in range; null: too few validation images
            pa.field("predicted_monotone", pa.float64()),
            # Of the true score at 90 %, around the monotone (or unfitted) prediction; null on val, which calibrates it
            pa.field("interval_low", pa.float64()),
            pa.field("interval_high", pa.float64()),
            required("text", pa.string()),  # the greedy answer, unchanged
            required("text_tokens", pa.int32()),
            required("parsed", pa.bool_()),
            pa.field("stated_score", pa.int8()),  # null when not parsed
            pa.field("explanation", pa.string()),  # null when not parsed
        ]
    ),
)

OTHER_PREDICTIONS = Table(
    "other_predictions",
    1,
    pa.schema(
        [
            *IMAGE,
            required("group", pa.string()),
            required("score", pa.float64()),  # on the scale of the other data set
            required("predicted", pa.float64()),  # on the scale of the data set that the model was trained on
            required("reading", pa.string()),  # monotone or unfitted
            required("score_distribution", pa.list_(pa.float64(), 10)),
            required("digit_mass", pa.float64()),
            required("text", pa.string()),
            required("text_tokens", pa.int32()),
            required("parsed", pa.bool_()),
            pa.field("stated_score", pa.int8()),  # null when not parsed
            pa.field("explanation", pa.string()),
        ]
    ),
)
"""One row an image of another labelled data set (`evaluate_also`)."""

NEW_PREDICTIONS = Table(
    "new_predictions",
    2,  # 2: monotone reading and intervals
    pa.schema(
        [
            *IMAGE,
            # On the data set's own scale: monotone reference values of the run, or unfitted ones (`reading`)
            pa.field("predicted", pa.float64()),
            pa.field("reading", pa.string()),  # monotone or unfitted
            pa.field("interval_low", pa.float64()),  # of the true score, at 90 %; null: too few validation images
            pa.field("interval_high", pa.float64()),
            pa.field("score_distribution", pa.list_(pa.float64(), 10)),
            pa.field("digit_mass", pa.float64()),
            pa.field("parsed", pa.bool_()),
            pa.field("stated_score", pa.int8()),  # null when not parsed
            pa.field("explanation", pa.string()),
            pa.field("text", pa.string()),
            pa.field("problem", pa.string()),  # why there is no prediction; null when there is one
        ]
    ),
)
"""One row an image that was asked for, in that order; see `PREDICTIONS`."""

REFERENCE_VALUES = Table(
    "reference_values",
    2,  # 2: monotone
    pa.schema(
        [
            required("bin", pa.int8()),
            required("unfitted", pa.float64()),
            required("fitted", pa.float64()),
            pa.field("monotone", pa.float64()),  # null with too few validation images; then unfitted ones are used
        ]
    ),
)

VERDICTS = Table(
    "verdicts",
    2,  # 2: group
    pa.schema(
        [
            *IMAGE,
            required("split", pa.string()),
            required("group", pa.string()),
            required("judge", pa.string()),  # round_trip, or the name of the judge model
            # scored; unparsed: no explanation reached the judge; refused, malformed: the judge gave no usable verdict
            required("status", pa.string()),
            pa.field("stated_score", pa.int8()),
            pa.field("recovered_score", pa.float64()),  # of the round-trip judge alone
            pa.field("consistency", pa.int8()),  # 0 bad .. 4 excellent
            pa.field("usefulness", pa.int8()),  # the same scale; null for the round-trip judge
            pa.field("general", pa.int8()),
        ]
    ),
)

ANCHOR_VERDICTS = Table(
    "verdicts",
    2,  # 2: group
    pa.schema([*VERDICTS.schema, required("iteration", pa.int32()), required("kind", pa.string())]),
)
"""The verdicts of one judge on the explanations in `ANCHORS`, in the same order."""

ANCHORS = Table(
    "anchors",
    2,  # 2: group
    pa.schema(
        [
            *IMAGE,
            required("group", pa.string()),
            required("iteration", pa.int32()),
            required("kind", pa.string()),  # zero-shot, score, consistency or merged
            pa.field("stated_score", pa.int8()),  # null when not parsed
            pa.field("explanation", pa.string()),
        ]
    ),
)
"""The same test images of every evaluated model, which a later judge rates."""

_COMPARISON = [
    *IMAGE,
    required("group", pa.string()),
    required("stated_score", pa.int8()),
    required("aspect", pa.string()),  # true_of_image, fits_score or useful
    required("question", pa.string()),
    required("explanation", pa.string()),
    required("other", pa.string()),  # the text that it is compared with
]

VLM_COMPARISONS = Table(
    "vlm_comparisons",
    1,
    pa.schema([*_COMPARISON, required("width_px", pa.int32()), required("height_px", pa.int32())]),
)
"""Explanations and what a VLM judge compares them with (shards of `judge_vlm`)."""

VLM_VERDICTS = Table(
    "vlm_verdicts",
    1,
    pa.schema(
        [
            *_COMPARISON,
            required("reason", pa.string()),  # of the judge, with the explanation as A
            pa.field("grade", pa.int8()),  # 4: preferred in both orders, 2: in one, 0: in none; null: unparsable
        ]
    ),
)
"""The verdicts of a VLM judge, a row a comparison."""

OTHER_EXPLANATIONS = Table(
    "other_explanations", 1, pa.schema([("image", pa.string()), ("other_explanation", pa.string())])
)
"""A model's explanations of a stated score for another image (shards of `probe_faithfulness`)."""

TEXT_SCORES = Table(
    "text_scores",
    1,
    pa.schema([("image", pa.string()), ("text_distribution", pa.list_(pa.float64(), 10))]),
)
"""The score distribution that a model reads from its explanation alone (shards of `probe_faithfulness`)."""

FAITHFULNESS = Table(
    "faithfulness",
    2,  # 2: group, another score for the same image, and the score from the text alone
    pa.schema(
        [
            *IMAGE,
            required("group", pa.string()),
            required("stated_score", pa.int8()),
            required("recovered_score", pa.float64()),  # read from the explanation alone, without image or numbers
            required("explanation", pa.string()),  # the model's own, for this image and its stated score
            required("other_image", pa.string()),
            required("other_explanation", pa.string()),  # for the same stated score with the other image
            required("text_change", pa.float64()),  # 0 the same words .. 1 no word in common
            required("other_score", pa.int8()),
            required("other_score_explanation", pa.string()),  # for another score with the same image
            required("score_change", pa.float64()),  # as text_change
            required("score", pa.float64()),  # the true one
            required("score_distribution", pa.list_(pa.float64(), 10)),  # read from the image
            required("text_distribution", pa.list_(pa.float64(), 10)),  # read from the explanation alone
            required("mentions_own_score", pa.bool_()),  # the explanation names the stated score as a number
            required("mentions_other_score", pa.bool_()),  # it names another number 0..9 as a score
        ]
    ),
)

DIFFERENCES = Table(
    "differences",
    1,
    pa.schema(
        [
            required("earlier", pa.string()),  # names of two models, as in the report
            required("later", pa.string()),
            required("metric", pa.string()),
            required("value", pa.float64()),  # of the later model less of the earlier one, on the same test images
            required("low", pa.float64()),
            required("high", pa.float64()),
            required("rows", pa.int64()),
            required("change", pa.string()),  # raised, lowered: the interval is above, below 0; or no difference shown
        ]
    ),
)
"""Paired differences of a run's models (part of `report`)."""

JUDGE_TERMS = Table(
    "judge_terms",
    1,
    pa.schema([required("term", pa.string()), required("idf", pa.float64()), required("weight", pa.float64())]),
)
"""The round-trip judge as a table: score = intercept + sum of tf-idf x weight. The empty term holds the intercept."""

JUDGE_HOLDOUT = Table(
    "judge_holdout",
    1,
    pa.schema(
        [
            required("image", pa.string()),
            required("injected_score", pa.int8()),
            required("recovered_score", pa.float64()),
        ]
    ),
)
