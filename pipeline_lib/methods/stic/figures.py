"""Figures of a model's answers and descriptions, and paired differences between models; no model is asked here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.stic.recipe import Scoring
from pipeline_lib.methods.stic.scoring import score
from pipeline_lib.methods.stic.statements import count_words, find_statements, named_things
from pipeline_lib.methods.stic.tables import CHECKED, DIFFERENCES, PREDICTIONS
from pipeline_lib.metrics.figures import mean
from pipeline_lib.metrics.intervals import change, grouped_estimate, grouped_estimates, rate_estimate
from pipeline_lib.metrics.scores import Estimate, metrics_table

Array = NDArray[np.float64]

SPLIT = "test"
"""The split under which figures are stored: `questions` are what a run is measured on."""


def score_answers(questions: pa.Table, direct: pa.Table, described: pa.Table, config: Scoring) -> pa.Table:
    """`PREDICTIONS` from both answers to each question; the three tables have the same rows."""
    rows = []
    for asked, first, second in zip(*(table.to_pylist() for table in (questions, direct, described)), strict=True):
        row = {name: asked[name] for name in ("row", "images", "group", "question", "answers")}
        for way, said in (("direct", first), ("described", second)):
            if said["row"] != asked["row"]:
                raise ValueError(f"row {said['row']} of {way} is not row {asked['row']} of the questions")
            scored = score(said["answer"], asked["answers"], asked["choices"], config)
            row |= {way: said["answer"], f"{way}_right": scored.right, f"{way}_read": scored.read}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=PREDICTIONS.schema)


def check_descriptions(questions: pa.Table, descriptions: pa.Table, things: Sequence[str]) -> pa.Table:
    """`CHECKED`: what is right and wrong in each description, where the questions say it of their image.

    The names of things that count as absent are `things` and those that the questions show, less those of the image.
    """
    asked = questions.to_pylist()
    vocabulary = list(dict.fromkeys([*things, *(thing for row in asked for thing in row["shows"] or [])]))
    of_image = {image["image"]: row for row in reversed(asked) for image in row["images"]}
    rows = []
    for said in descriptions.to_pylist():
        row, text = of_image[said["image"]], said["description"]
        statements = None if row["statements"] is None else find_statements(text, row["statements"])
        absent = None
        if row["shows"] is not None and vocabulary:
            absent = [thing for thing in named_things(text, vocabulary) if thing not in row["shows"]]
        rows.append(
            {
                "image": said["image"],
                "image_sha256": said["image_sha256"],
                "group": row["group"],
                "description": text,
                "words": count_words(text),
                "checked_words": sum(count_words(stated.words) for stated in statements or []),
                "statements": None if statements is None else [stated._asdict() for stated in statements],
                "absent": absent,
            }
        )
    return pa.Table.from_pylist(rows, schema=CHECKED.schema)


def answer_metrics(predictions: pa.Table, bootstrap: Bootstrap, seed: int) -> pa.Table:
    """`METRICS` of answers: accuracy and share read, direct and described, and the difference of the two ways."""
    groups = _column(predictions, "group")
    options = _options(bootstrap, seed)
    found = {}
    for way in ("direct", "described"):
        right, read = (_column(predictions, f"{way}_{what}") for what in ("right", "read"))
        found[f"accuracy_{way}"] = _mean(right, groups, options)
        found[f"read_{way}"] = rate_estimate(read, groups=groups, **options)
    gain = _column(predictions, "described_right") - _column(predictions, "direct_right")
    found["gain_of_describing"] = grouped_estimate(mean, gain, groups=groups, **options)
    return metrics_table(found, SPLIT)


def description_metrics(checked: pa.Table, bootstrap: Bootstrap, seed: int) -> pa.Table:
    """`METRICS` of descriptions; figures that need what is known of the images are left out where nothing is known.

    `wrong_statements`: share of all statements that are wrong. `statements`: right and wrong ones a description.
    `absent_things`: share of descriptions that name at least one thing that is not there. `checked_words`: share of the
    words that are part of a statement.
    """
    options = _options(bootstrap, seed)
    groups = _column(checked, "group")
    words = _column(checked, "words").astype(float)
    found = {"words": grouped_estimate(mean, words, groups=groups, **options)}
    known = Counts.of(checked)
    if len(known.groups):
        shares = {"wrong_statements": known.share, "statements": lambda weights: weights @ known.all / weights.sum(1)}
        found |= grouped_estimates(shares, groups=known.groups, **options)
        checked_words = _column(checked, "checked_words")[known.rows].astype(float)
        found["checked_words"] = grouped_estimate(
            _ratio, checked_words, words[known.rows], groups=known.groups, **options
        )
    absent = checked["absent"].to_pylist()
    if rows := [at for at, things in enumerate(absent) if things is not None]:
        names = np.array([bool(absent[at]) for at in rows])
        found["absent_things"] = rate_estimate(names, groups=groups[rows], **options)
    return metrics_table(found, SPLIT)


class Counts(NamedTuple):
    """Wrong and all statements of the descriptions of which something is known: (n,) each, and their groups."""

    rows: NDArray[np.int64]
    wrong: Array
    all: Array
    groups: NDArray[np.generic]

    @classmethod
    def of(cls, checked: pa.Table, topics: Sequence[set[str]] | None = None) -> "Counts":
        """The counts of `CHECKED`; with `topics` those of statements in these topics alone, a set a row."""
        stated: list[list[dict[str, Any]] | None] = checked["statements"].to_pylist()
        rows = [at for at, statements in enumerate(stated) if statements is not None]
        kept = [[each for each in stated[at] or [] if topics is None or each["topic"] in topics[at]] for at in rows]
        return cls(
            np.array(rows, np.int64),
            np.array([sum(not each["right"] for each in statements) for statements in kept], float),
            np.array([len(statements) for statements in kept], float),
            _column(checked, "group")[rows],
        )

    def share(self, weights: Array) -> Array:
        """The share of wrong statements among all, for weights of shape (s, n): (s,)."""
        return _ratio(self.wrong, self.all, weights)


class Model(NamedTuple):
    """A model of a run with its tables `PREDICTIONS` and `CHECKED`."""

    name: str
    predictions: pa.Table
    checked: pa.Table


def differences(pairs: Sequence[tuple[Model, Model]], bootstrap: Bootstrap, seed: int) -> pa.Table:
    """`DIFFERENCES` of each (earlier, later): the same resamples of groups serve both models.

    `wrong_statements_same_topics` counts statements in the topics alone that both models name about an image: a model
    that only speaks of other, easier topics gains nothing by it.
    """
    options = _options(bootstrap, seed)
    rows = []
    for earlier, later in pairs:
        found = {
            f"accuracy_{way}": _paired_mean(earlier.predictions, later.predictions, f"{way}_right", options)
            for way in ("direct", "described")
        }
        both = _both_topics(earlier.checked, later.checked)
        for name, topics in (("wrong_statements", None), ("wrong_statements_same_topics", both)):
            first, second = (Counts.of(model.checked, topics) for model in (earlier, later))
            if len(first.groups):
                found[name] = grouped_estimates(
                    {name: _less(second.share, first.share)}, groups=first.groups, **options
                )[name]
        named = [_names_absent(model.checked) for model in (earlier, later)]
        if len(named[0].values):
            found["absent_things"] = grouped_estimate(
                mean, named[1].values - named[0].values, groups=named[0].groups, **options
            )
        rows += [
            {
                "earlier": earlier.name,
                "later": later.name,
                "metric": name,
                **estimate._asdict(),
                "change": change(estimate),
            }
            for name, estimate in found.items()
        ]
    return pa.Table.from_pylist(rows, schema=DIFFERENCES.schema)


def shares_by_topic(checked: pa.Table) -> dict[str, tuple[int, int]]:
    """Wrong and all statements by topic, in the order of the topics' first appearance."""
    counts: dict[str, tuple[int, int]] = {}
    for statements in checked["statements"].to_pylist():
        for stated in statements or []:
            wrong, all_ = counts.get(stated["topic"], (0, 0))
            counts[stated["topic"]] = wrong + (not stated["right"]), all_ + 1
    return counts


class _Named(NamedTuple):
    values: Array
    groups: NDArray[np.generic]


def _names_absent(checked: pa.Table) -> _Named:
    absent = checked["absent"].to_pylist()
    rows = [at for at, things in enumerate(absent) if things is not None]
    return _Named(np.array([float(bool(absent[at])) for at in rows]), _column(checked, "group")[rows])


def _both_topics(earlier: pa.Table, later: pa.Table) -> list[set[str]]:
    def topics(checked: pa.Table) -> list[set[str]]:
        return [{each["topic"] for each in statements or []} for statements in checked["statements"].to_pylist()]

    return [first & second for first, second in zip(topics(earlier), topics(later), strict=True)]


def _less(later: Callable[[Array], Array], earlier: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda weights: later(weights) - earlier(weights)


def _ratio(part: Array, whole: Array, weights: Array) -> Array:
    with np.errstate(invalid="ignore"):
        found: Array = (weights @ part) / (weights @ whole)
    return found


def _paired_mean(earlier: pa.Table, later: pa.Table, column: str, options: Mapping[str, Any]) -> Estimate:
    gain = _column(later, column) - _column(earlier, column)
    return grouped_estimate(mean, gain, groups=_column(earlier, "group"), **options)


def _mean(values: Array, groups: NDArray[np.generic], options: Mapping[str, Any]) -> Estimate:
    if np.isin(values, (0, 1)).all():
        return rate_estimate(values, groups=groups, **options)
    return grouped_estimate(mean, values, groups=groups, **options)


def _options(bootstrap: Bootstrap, seed: int) -> dict[str, Any]:
    return {"samples": bootstrap.bootstrap_samples, "confidence": bootstrap.confidence, "seed": seed}


def _column(table: pa.Table, name: str) -> Any:
    return np.array(table[name].to_pylist())
