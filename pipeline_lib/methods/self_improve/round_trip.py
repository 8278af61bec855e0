"""The local judge: can the stated score be recovered from the explanation alone?

A text model (tf-idf and ridge regression) learns once which score an explanation was written for, from explanations
that the base model wrote for injected scores. It then stays the same in all iterations. An explanation is inconsistent
if its recovered score is far from its stated score. It needs no labels, no other model and no network. It measures only
consistency, not usefulness or writing, and it does not see the image.
"""

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from pipeline_lib.errors import DataError
from pipeline_lib.sampling import draw

_NUMBER = re.compile(r"\d+")


class RoundTripJudge(NamedTuple):
    """Terms, inverse document frequencies and weights: score = intercept + tf-idf . weights."""

    vectorizer: TfidfVectorizer
    weights: NDArray[np.float64]
    intercept: float

    def recover(self, explanations: list[str]) -> NDArray[np.float64]:
        """The recovered score of each explanation, clipped to 0..9. Numbers in the text are ignored."""
        features: sparse.csr_matrix = self.vectorizer.transform([_without_numbers(text) for text in explanations])
        return np.asarray(np.clip(features @ self.weights + self.intercept, 0.0, 9.0))


class Fitted(NamedTuple):
    """The judge as a table (`JUDGE_TERMS`), and its predictions on held-out images (`JUDGE_HOLDOUT`)."""

    terms: pa.Table
    holdout: pa.Table


def fit_judge(score_pairs: pa.Table, holdout_fraction: float, seed: int) -> Fitted:
    """Learn score from explanation on the base model's score pairs; both explanations of every image count.

    The published judge is fitted on all pairs; the held-out predictions come from a judge fitted without those images.
    Raises `DataError` when there are too few explanations.
    """
    texts, injected, images = _explanations(score_pairs)
    held = np.array([draw(f"{seed}:judge", image) < holdout_fraction for image in images])
    if held.sum() < 2 or (~held).sum() < 20:
        raise DataError(f"{len(texts)} explanations are too few to fit and to check the round-trip judge; at least 30")
    checked = _fit([text for text, out in zip(texts, held, strict=True) if not out], injected[~held])
    holdout = pa.table(
        {
            "image": [image for image, out in zip(images, held, strict=True) if out],
            "injected_score": injected[held].astype(np.int8),
            "recovered_score": checked.recover([text for text, out in zip(texts, held, strict=True) if out]),
        }
    )
    return Fitted(_to_table(_fit(texts, injected)), holdout)


def load_judge(terms: pa.Table) -> RoundTripJudge:
    """The judge from the table that `fit_judge` made."""
    intercept = float(terms["weight"][0].as_py())
    body = terms.slice(1)
    vocabulary = {term: at for at, term in enumerate(body["term"].to_pylist())}
    vectorizer = _vectorizer(vocabulary=vocabulary)
    vectorizer.idf_ = body["idf"].to_numpy()
    return RoundTripJudge(vectorizer, body["weight"].to_numpy(), intercept)


def grade(stated_score: NDArray[np.float64], recovered_score: NDArray[np.float64]) -> NDArray[np.int8]:
    """Consistency 0..4: 4 when the recovered score is within half a point of the stated one, one less a point."""
    return np.asarray(np.clip(4 - np.floor(np.abs(stated_score - recovered_score) + 0.5), 0, 4), dtype=np.int8)


def judge_predictions(judge: RoundTripJudge, predictions: pa.Table) -> pa.Table:
    """A verdict for every prediction, in `VERDICTS`.

    An answer that did not parse has no explanation: its status is `unparsed`, and it gets no grade.
    """
    rows = predictions.select(["image", "image_sha256", "split", "group", "stated_score", "explanation"]).to_pylist()
    given = [row for row in rows if row["explanation"] is not None]
    recovered = judge.recover([row["explanation"] for row in given]) if given else np.empty(0)
    grades = grade(np.array([row["stated_score"] for row in given], dtype=np.float64), recovered)
    for row in rows:
        row |= {"judge": "round_trip", "status": "unparsed", "recovered_score": None, "consistency": None}
        row |= {"usefulness": None, "general": None}
    for row, score, consistency in zip(given, recovered.tolist(), grades.tolist(), strict=True):
        row |= {"status": "scored", "recovered_score": score, "consistency": consistency}
    for row in rows:
        del row["explanation"]
    return pa.Table.from_pylist(rows)


def _explanations(score_pairs: pa.Table) -> tuple[list[str], NDArray[np.float64], list[str]]:
    texts, scores, images = [], [], []
    for row in score_pairs.to_pylist():
        for side, score in (("chosen", row["true_score"]), ("rejected", row["wrong_score"])):
            text = row[side].partition("#Explain:")[2].strip()
            if text:
                texts.append(text)
                scores.append(score)
                images.append(row["image"])
    return texts, np.array(scores, dtype=np.float64), images


def _vectorizer(vocabulary: dict[str, int] | None = None) -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1 if vocabulary else 2, vocabulary=vocabulary)


def _fit(texts: list[str], scores: NDArray[np.float64]) -> RoundTripJudge:
    vectorizer = _vectorizer()
    try:
        features = vectorizer.fit_transform([_without_numbers(text) for text in texts])
    except ValueError as error:
        raise DataError(f"the round-trip judge cannot be fitted on these explanations: {error}") from error
    ridge = Ridge(alpha=1.0, solver="lsqr").fit(features, scores)
    return RoundTripJudge(vectorizer, ridge.coef_, float(ridge.intercept_))


def _to_table(judge: RoundTripJudge) -> pa.Table:
    terms = judge.vectorizer.get_feature_names_out().tolist()
    return pa.table(
        {
            "term": ["", *terms],
            "idf": [0.0, *judge.vectorizer.idf_.tolist()],
            "weight": [judge.intercept, *judge.weights.tolist()],
        }
    )


def _without_numbers(text: str) -> str:
    return _NUMBER.sub(" ", text)
