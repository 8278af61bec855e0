"""Figures of ratings and of votes, from tables alone."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.metrics.figures import krcc, mean, plcc, srcc
from pipeline_lib.metrics.intervals import (
    Change,
    change,
    grouped_estimate,
    grouped_estimates,
    paired_difference,
    rate_estimate,
)
from pipeline_lib.metrics.scores import Estimate, metrics_table

READINGS = ("mean", "stated")
"""A rating of an image: the mean of its samples, or the greedy answer."""
_CORRELATIONS = {"srcc": srcc, "plcc": plcc, "krcc": krcc}


def rating_metrics(ratings: pa.Table, config: Bootstrap, split: str, seed: int) -> pa.Table:
    """`METRICS` of `RATINGS`: parse rates, spread over images and within one, and, with labels, the correlations.

    A correlation is over the images with a rating; `rows` says how many those are. Of expectations `covered` is the
    mean probability of the answers that were followed, `without_expectation` the share of images where it was too low.
    """
    groups = np.array(ratings["group"].to_pylist())
    answers, read = (pc.list_value_length(ratings[name]).to_numpy() for name in ("answers", "ratings"))
    settings = _settings(config, seed)
    stated = ratings["stated"].is_valid().to_numpy()
    found: dict[str, Estimate] = {"parse_rate_stated": rate_estimate(stated, groups=groups, **settings)}
    if answers.sum():
        found["parse_rate"] = Estimate(float(read.sum() / answers.sum()), np.nan, np.nan, len(ratings))
    if "covered" in ratings.column_names and ratings["covered"].null_count == 0 and len(ratings):  # expectations
        found["parse_rate"] = _plain(pc.mean(ratings["readable"]).as_py(), len(ratings))
        found["covered"] = _plain(pc.mean(ratings["covered"]).as_py(), len(ratings))
        found["without_expectation"] = _plain(ratings["mean"].null_count / len(ratings), len(ratings))
    within = ratings["spread"].drop_null().to_numpy()
    found["spread_of_samples"] = _plain(within.mean() if len(within) else np.nan, len(within))
    for reading in READINGS:
        known = ratings[reading].is_valid()
        values = ratings.filter(known)[reading].to_numpy()
        found[f"spread_{reading}"] = _plain(values.std() if len(values) else np.nan, len(values))
        labels = ratings.filter(known)["score"]
        if labels.null_count == 0 and len(labels):
            figures = {
                f"{name}_{reading}": partial(figure, labels.to_numpy(), values)
                for name, figure in _CORRELATIONS.items()
            }
            found |= grouped_estimates(figures, groups=groups[known.to_numpy()], **settings)
    return metrics_table(found, split)


def agreement_metrics(ratings: pa.Table, votes: pa.Table, config: Bootstrap, seed: int) -> pa.Table:
    """`METRICS` of split `val`: the share of decided pairs that the ratings order as the votes do.

    A pair with equal ratings counts half, one of which an image has no rating counts as not ordered so.
    """
    found = {}
    for reading in READINGS:
        of_image = dict(zip(ratings["image"].to_pylist(), ratings[reading].to_pylist(), strict=True))
        hits = [
            agrees([of_image.get(image["image"]) for image in row["images"]], row["preference"])
            for row in votes.to_pylist()
            if row["preference"] not in (None, 0.5)
        ]
        groups = np.arange(len(hits))
        settings = _settings(config, seed)
        found[f"vote_agreement_{reading}"] = grouped_estimate(mean, np.array(hits, float), groups=groups, **settings)
    return metrics_table(found, "val")


def srcc_difference(before: pa.Table, after: pa.Table, reading: str, config: Bootstrap, seed: int) -> Estimate:
    """SRCC of `after` less that of `before`, `RATINGS` of the same labelled images, over those that both rated."""
    both = pc.and_(before[reading].is_valid(), after[reading].is_valid())
    true, first, second = (
        table.filter(both)[name].to_numpy() for table, name in ((before, "score"), (before, reading), (after, reading))
    )
    groups = np.array(before.filter(both)["group"].to_pylist())
    return paired_difference(srcc, true, first, second, groups=groups, **_settings(config, seed))


def srcc_change(before: pa.Table, after: pa.Table, config: Bootstrap, seed: int) -> Change:
    """The word for the change of the mean rating's SRCC between two `RATINGS` of the same labelled images."""
    return change(srcc_difference(before, after, "mean", config, seed))


def agrees(ratings: Sequence[float | None], preference: float) -> float:
    """1 if the ratings of two images say what the votes say, .5 if they are equal, else 0."""
    first, second = ratings
    if first is None or second is None:
        return 0.0
    return 0.5 if first == second else float((first > second) == (preference > 0.5))


def vote_figures(votes: pa.Table) -> dict[str, float]:
    """What the votes of a round are worth without any label.

    `parse_rate` of answers, `said_first` (of those read: .5 without position bias), `agreement` (share of a pair's
    votes that are for its majority, mean over pairs), `ties` and `unlabelled` (shares of pairs).
    """
    first, second = votes["first_votes"].to_numpy(), votes["second_votes"].to_numpy()
    read, unparsed = first + second, votes["unparsed"].to_numpy()
    with np.errstate(invalid="ignore"):
        return {
            "pairs": float(len(votes)),
            "parse_rate": float(read.sum() / (read + unparsed).sum()),
            "said_first": float(votes["said_first"].to_numpy().sum() / read.sum()),
            "agreement": float((np.maximum(first, second)[read > 0] / read[read > 0]).mean()),
            "ties": float((first == second)[read > 0].mean()),
            "unlabelled": float((read == 0).mean()),
        }


def _settings(config: Bootstrap, seed: int) -> dict[str, Any]:
    return {"samples": config.bootstrap_samples, "confidence": config.confidence, "seed": seed}


def _plain(value: Any, rows: int) -> Estimate:
    return Estimate(float(value), float("nan"), float("nan"), rows)
