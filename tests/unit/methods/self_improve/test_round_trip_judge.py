"""The round-trip judge on texts whose words carry the score."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.judge_metrics import draw_for_judge, judge_metrics
from pipeline_lib.methods.self_improve.recipe import Evaluation
from pipeline_lib.methods.self_improve.round_trip import Fitted, fit_judge, grade, judge_predictions, load_judge
from pipeline_lib.methods.self_improve.tables import JUDGE_HOLDOUT, JUDGE_TERMS, VERDICTS
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import preference_pairs

NO_DIGITS = str.maketrans("0123456789", " " * 10)
WORDS = ["awful", "bad", "weak", "dull", "plain", "fair", "pleasant", "good", "fine", "superb"]


def text(score: int, rng: np.random.Generator) -> str:
    filler = rng.choice(["light", "colour", "subject", "frame", "sky"], 3)
    praise = f"the {filler[1]} {WORDS[score]} and the {filler[2]} {WORDS[score]}"
    return f"The {filler[0]} is {WORDS[score]}, {praise}, which earns {score}{score} points."


def score_pairs(count: int = 60) -> pa.Table:
    rng = np.random.default_rng(0)
    true = [n % 10 for n in range(count)]
    wrong = [(n + 5) % 10 for n in range(count)]
    return preference_pairs(
        count,
        "Rate.",
        true_score=true,
        wrong_score=wrong,
        chosen=[f"#Score: {s}\n\n#Explain: {text(s, rng)}" for s in true],
        rejected=[f"#Score: {s}\n\n#Explain: {text(s, rng)}" for s in wrong],
    )


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit_judge(score_pairs(), 0.2, 0)


def predictions(stated: list[int | None], explanations: list[str | None]) -> pa.Table:
    count = len(stated)
    rows = {
        "image": [f"{n}.png" for n in range(count)],
        "image_sha256": ["0" * 64] * count,
        "split": ["test"] * count,
        "group": [f"{n}.png" for n in range(count)],
        "stated_score": pa.array(stated, pa.int8()),
        "explanation": pa.array(explanations, pa.string()),
    }
    return pa.table(rows)


def test_a_judge_from_its_table_recovers_the_same_scores(fitted: Fitted) -> None:
    conform(fitted.terms, JUDGE_TERMS.schema)
    rng = np.random.default_rng(1)
    texts = [text(score, rng) for score in range(10)] + ["", "words it never saw"]
    once = load_judge(fitted.terms).recover(texts)
    again = load_judge(fit_judge(score_pairs(), 0.2, 0).terms).recover(texts)
    assert once.tolist() == again.tolist()
    assert np.abs(once[:10] - np.arange(10)).max() < 1.5
    assert once.min() >= 0 and once.max() <= 9

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    rows = score_pairs().to_pylist()
    given = [(row[side].partition("#Explain:")[2].strip(), row[score]) for row in rows
             for side, score in (("chosen", "true_score"), ("rejected", "wrong_score"))]  # fmt: skip
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    features = vectorizer.fit_transform([t.translate(NO_DIGITS) for t, _ in given])
    ridge = Ridge(alpha=1.0).fit(features, [float(s) for _, s in given])
    np.testing.assert_allclose(
        once, np.clip(ridge.predict(vectorizer.transform([t.translate(NO_DIGITS) for t in texts])), 0, 9), atol=1e-2
    )


def test_the_holdout_is_of_images_the_checked_judge_did_not_see(fitted: Fitted) -> None:
    holdout = conform(fitted.holdout, JUDGE_HOLDOUT.schema)
    images = holdout["image"].to_pylist()
    assert 6 <= len(set(images)) <= 20 and len(images) == 2 * len(set(images))  # both sides of an image together
    error = np.abs(holdout["injected_score"].to_numpy() - holdout["recovered_score"].to_numpy())
    assert 0 < error.mean() < 1


def test_numbers_in_an_explanation_are_not_looked_at(fitted: Fitted) -> None:
    judge = load_judge(fitted.terms)
    plain, numbered = judge.recover(["The light is dull. It gets a of ."]), judge.recover(
        ["The light is dull. It gets a 9 of 10."]
    )  # fmt: skip
    assert plain.tolist() == numbered.tolist()
    assert not any(character.isdigit() for term in fitted.terms["term"].to_pylist() for character in term)


def test_swapped_explanations_get_lower_grades(fitted: Fitted) -> None:
    rng = np.random.default_rng(2)
    texts = [text(score, rng) for score in range(10)] * 3
    stated = list(range(10)) * 3
    swapped = [(score + 5) % 10 for score in stated]
    judge = load_judge(fitted.terms)

    def mean(scores: list[int]) -> float:
        verdicts = judge_predictions(judge, predictions(list(scores), list(texts)))
        return float(np.mean(verdicts["consistency"].to_pylist()))

    assert mean(stated) > 3 and mean(swapped) < 1


def test_unparsed_answers_are_not_judged(fitted: Fitted) -> None:
    judge = load_judge(fitted.terms)
    seen: list[str] = []

    class Listening(type(judge)):  # type: ignore[misc]
        def recover(self, explanations: list[str]) -> np.ndarray:
            seen.extend(explanations)
            return super().recover(explanations)

    given = predictions([7, None, 1], ["The light is good.", None, "The sky is bad."])
    verdicts = conform(judge_predictions(Listening(*judge), given), VERDICTS.schema).to_pylist()
    assert seen == ["The light is good.", "The sky is bad."]
    assert [row["status"] for row in verdicts] == ["scored", "unparsed", "scored"]
    assert verdicts[1]["consistency"] is None and verdicts[1]["recovered_score"] is None
    assert verdicts[0]["consistency"] is not None
    nothing = judge_predictions(Listening(*judge), predictions([None], [None]))
    assert conform(nothing, VERDICTS.schema)["status"].to_pylist() == ["unparsed"]


@pytest.mark.parametrize(
    ("stated", "recovered", "expected"),
    [(5, 5, 4), (5, 5.49, 4), (5, 5.51, 3), (5, 4.49, 3), (5, 6.6, 2), (5, 8, 1), (0, 3.6, 0), (0, 9, 0), (9, 0, 0)],
)
def test_grades_fall_by_one_a_point(stated: float, recovered: float, expected: int) -> None:
    assert grade(np.array([float(stated)]), np.array([float(recovered)])).tolist() == [expected]


def test_too_few_explanations_are_refused() -> None:
    with pytest.raises(DataError, match="explanations are too few"):
        fit_judge(score_pairs(8), 0.2, 0)
    empty = preference_pairs(60, "Rate.", chosen=["#Score: 1\n\n#Explain:"] * 60, rejected=["?"] * 60)
    with pytest.raises(DataError, match="0 explanations are too few"):
        fit_judge(empty, 0.2, 0)
    different = [f"#Score: 1\n\n#Explain: {'x' * (n + 2)}" for n in range(60)]
    with pytest.raises(DataError, match="cannot be fitted"):
        fit_judge(preference_pairs(60, "Rate.", chosen=different, rejected=["?"] * 60), 0.2, 0)


def test_rows_for_the_judge_are_the_same_images_for_every_model() -> None:
    parts = [predictions([1] * 50, ["a"] * 50), predictions([2] * 50, ["b"] * 50)]
    drawn = [draw_for_judge(part, 10, 0) for part in parts]
    assert drawn[0]["image"].to_pylist() == drawn[1]["image"].to_pylist() and drawn[0].num_rows == 10
    assert draw_for_judge(parts[0], None, 0).num_rows == draw_for_judge(parts[0], 99, 0).num_rows == 50


def test_cons_is_the_mean_grade_of_the_scored(fitted: Fitted) -> None:
    verdicts = conform(
        judge_predictions(load_judge(fitted.terms), predictions([7, None, 1], ["is good", None, "is good"])),
        VERDICTS.schema,
    )
    rows = conform(judge_metrics(verdicts, Evaluation(bootstrap_samples=100), 0), METRICS.schema).to_pylist()
    grades = [grade for grade in verdicts["consistency"].to_pylist() if grade is not None]
    test = next(row for row in rows if row["split"] == "test")
    assert test["metric"] == "cons" and test["value"] == np.mean(grades) and test["rows"] == 2
    val = next(row for row in rows if row["split"] == "val")
    assert val["rows"] == 0 and np.isnan(val["value"])
