"""Figures as a table prints them: correlations without the leading zero, NaN as a dash."""

import math
from typing import NamedTuple

from pipeline_lib.metrics.scores import Estimate

UNDEFINED = "–"


class Column(NamedTuple):
    """A column of the results table: the name in `METRICS`, its heading, and decimals of value and bounds."""

    metric: str
    heading: str
    decimals: int
    bound_decimals: int


def score_column(figure: str, reading: str, decimals: int = 3) -> Column:
    """A figure of one reading of the scores, such as `SRCC monotone`."""
    return Column(f"{figure}_{reading}", f"{figure.upper()} {reading}", decimals, 2)


SRCC_STATED, SRCC_UNFITTED, SRCC_FITTED, SRCC_MONOTONE = (
    score_column("srcc", reading) for reading in ("stated", "unfitted", "fitted", "monotone")
)
PLCC_UNFITTED, PLCC_FITTED = score_column("plcc", "unfitted"), score_column("plcc", "fitted")
MAE_STATED = Column("mae_stated", "MAE stated", 2, 2)
WITHIN_ONE = Column("within_one_stated", "Within one", 3, 2)
SPREAD = Column("spread_bins", "Spread", 2, 2)
CONS, USE, GEN = (Column(name.lower(), name, 2, 2) for name in ("Cons", "Use", "Gen"))
CONS_CORRECTED = Column("cons_corrected", "Cons corrected", 3, 2)
CONS_CHANCE = Column("cons_chance", "Chance", 2, 2)
TEN_TEXTS, ONE_WORD = Column("cons_ten_texts", "Ten texts", 2, 2), Column("cons_one_word", "One word", 2, 2)
DISTINCT_TEXTS, MEAN_WORDS = Column("distinct_texts", "Distinct texts", 0, 0), Column("mean_words", "Words", 1, 1)
PARSE_RATE = Column("parse_rate", "Parse rate", 3, 2)
VALIDATION_COLUMNS = (SRCC_STATED, SRCC_UNFITTED, CONS, PARSE_RATE)
RECOVERED_SPEARMAN = Column("recovered_spearman", "Spearman", 2, 2)
RECOVERED_MAE = Column("recovered_mae", "MAE", 2, 2)
TEXT_CHANGE = Column("text_change", "Text change", 2, 2)
TEXT_CHANGE_BASELINE = Column("text_change_baseline", "Baseline", 2, 2)
SCORE_CHANGE = Column("score_change", "Text change", 2, 2)
FROM_IMAGE, FROM_TEXT = Column("srcc_from_image", "Image", 2, 2), Column("srcc_from_text", "Text", 2, 2)
IMAGE_TEXT_GAP = Column("image_text_gap", "Gap", 2, 2)
NAMES_FAULT = Column("names_fault", "Named", 2, 2)
NAMES_FAULT_CHANCE = Column("names_fault_chance", "Chance", 2, 2)
SAME_TEXT = Column("same_text_rate", "Same text", 2, 2)
OWN_SCORE = Column("mentions_own_score", "Own score", 2, 2)
OTHER_SCORE = Column("mentions_other_score", "Another", 2, 2)


def decimal(value: float, decimals: int) -> str:
    """A number with fixed decimals, `.652` for 0.652 and `–` for NaN; from ten on it keeps three significant digits."""
    if not math.isfinite(value):
        return UNDEFINED
    whole_digits = len(str(int(abs(value))))
    text = f"{value:.{max(0, decimals + 1 - whole_digits)}f}"
    negative, digits = text.startswith("-"), text.lstrip("-")
    digits = digits[1:] if digits.startswith("0.") else digits
    return f"-{digits}" if negative and digits.strip(".0") else digits


def value_text(column: Column, estimate: Estimate) -> str:
    """The figure alone."""
    return decimal(estimate.value, column.decimals)


def bounds_text(column: Column, estimate: Estimate) -> str:
    """The interval alone, `[.58 .71]`; empty where it is not defined."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    return f"[{decimal(estimate.low, column.bound_decimals)} {decimal(estimate.high, column.bound_decimals)}]"


def estimate_text(column: Column, estimate: Estimate) -> str:
    """A figure and its interval in the compact form `.652 [.58 .71]`."""
    return f"{value_text(column, estimate)} {bounds_text(column, estimate)}".rstrip()


def percent(fraction: float) -> str:
    """A share as `95 %`, `99.9 %` or `–`."""
    return f"{100 * fraction:.3g} %" if math.isfinite(fraction) else UNDEFINED


def plain_number(value: float) -> str:
    """A number in a sentence for everybody, with its leading zero: `0.62`, `8.10`, `62.3`, `–` for NaN."""
    if not math.isfinite(value):
        return UNDEFINED
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
