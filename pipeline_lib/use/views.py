"""What the columns of a method's predictions mean to a reader of a file, a gallery or a terminal."""

from typing import NamedTuple

import pyarrow as pa

from pipeline_lib.methods.self_improve.recipe import SCORES


class View(NamedTuple):
    """The columns of a table of predictions, in the order for people, and their meanings."""

    what: str  # one sentence about the score
    score: str
    heading: str  # of the score
    low: str | None  # ends of its interval
    high: str | None
    spread: str | None  # where there is no interval
    stated: str
    stated_heading: str
    explanation: str | None
    text: str  # the whole answer
    distribution: str | None
    rounded: dict[str, int]  # decimals beyond those of the score
    meanings: dict[str, str]  # of every column, in order

    @property
    def measured(self) -> tuple[str, ...]:
        """The columns in the unit of the score."""
        return tuple(name for name in (self.score, self.low, self.high, self.spread) if name)


def scores_of(score_column: str) -> View:
    """The view of `NEW_PREDICTIONS`."""
    bins = {f"p_{score}": f"probability of bin {score}, 0 to 1" for score in SCORES}
    own = f"on the scale of your column {score_column}"
    return View(
        what=f"The score is {own}. The stated bin, 0 to 9 with 9 the best, is what the text says: another scale.",
        score="predicted",
        heading=f"{score_column} (own scale)",
        low="interval_low",
        high="interval_high",
        spread=None,
        stated="stated_score",
        stated_heading="bin stated (0-9)",
        explanation="explanation",
        text="text",
        distribution="score_distribution",
        rounded={**dict.fromkeys(bins, 3), "digit_mass": 3},
        meanings={
            "image": "the image as it was given",
            "predicted": f"the score, {own}",
            "interval_low": f"lower end of the 90 % interval of the true score, {own}",
            "interval_high": "upper end of the 90 % interval",
            "stated_score": "the bin that the text states, 0 to 9, 9 is the best; another scale than the score's",
            "explanation": "why, in the model's words",
            "problem": "why the image has no score",
            "reading": "how the score is read: monotone (fitted on validation images) or unfitted",
            **bins,
            "digit_mass": "probability that the model states a score at all, 0 to 1",
            "parsed": "whether the answer has the form of a score and an explanation",
            "text": "the whole answer",
            "image_sha256": "digest of the image file",
        },
    )


RATINGS = View(
    what="The rating is the mean of several sampled answers, or their exact expectation, 1 to 5 with 5 the best.",
    score="rating",
    heading="rating (1-5)",
    low=None,
    high=None,
    spread="spread",
    stated="stated",
    stated_heading="rating stated (1-5)",
    explanation=None,
    text="stated_answer",
    distribution=None,
    rounded={},
    meanings={
        "image": "the image as it was given",
        "rating": "mean of the ratings (sampled, or their exact expectation), 1 to 5, 5 is the best",
        "spread": "standard deviation of the ratings",
        "stated": "the rating of the most probable answer, 1 to 5",
        "problem": "why the image has no rating",
        "ratings": "how many sampled answers could be read; 0: the rating is the exact expectation",
        "stated_answer": "the most probable answer",
    },
)
"""The view of evo_quality's `NEW_RATINGS`."""


def decimals(rows: pa.Table, view: View) -> int:
    """Decimals of a score: two, and three where no number reaches 1.5, such as scores of 0 to 1."""
    values = [abs(value) for name in view.measured for value in rows[name].to_pylist() if value is not None]
    return 2 if not values or max(values) >= 1.5 else 3
