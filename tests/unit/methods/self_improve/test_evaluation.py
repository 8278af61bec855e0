"""From a model's answers to predictions and metrics: the fit sees validation alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from scipy import stats

from pipeline_lib.methods.self_improve.evaluation import (
    Evaluated,
    answer_images,
    evaluate_answers,
    is_collapsed,
)
from pipeline_lib.methods.self_improve.predictions import new_predictions, scale_of
from pipeline_lib.methods.self_improve.recipe import Evaluation
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.methods.self_improve.tables import MODEL_ANSWERS, PREDICTIONS, REFERENCE_VALUES
from pipeline_lib.progress import Progress
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import PROMPT, image_table, model_ref, open_picture
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base

MEANS = np.linspace(10, 100, 10)
BINS = pa.table({"bin": range(10), "mean_score": MEANS})
CONFIG = Evaluation(bootstrap_samples=100)


def answers(val: int = 40, test: int = 30, parsed: int = 55, test_shift: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(0)
    count = val + test
    p = rng.dirichlet(np.ones(10) * 0.5, count)
    score = p @ MEANS + rng.normal(0, 3, count) + test_shift * (np.arange(count) >= val)
    rows = {
        "image": [f"{n}.png" for n in range(count)],
        "image_sha256": ["0" * 64] * count,
        "split": ["val"] * val + ["test"] * test,
        "score": score,
        "bin": rng.integers(0, 10, count),
        "score_distribution": p.tolist(),
        "digit_mass": [0.9] * count,
        "text": [" #Score: 3\n\n#Explain: Dull." if n < parsed else "?" for n in range(count)],
        "text_tokens": [9] * count,
        "parsed": [n < parsed for n in range(count)],
        "stated_score": [3 if n < parsed else None for n in range(count)],
        "explanation": ["Dull." if n < parsed else None for n in range(count)],
    }
    return pa.table(rows).cast(MODEL_ANSWERS.schema)


def images_of(given: pa.Table) -> pa.Table:
    return pa.table({"image": given["image"], "group": given["image"]})


def evaluated_from(given: pa.Table) -> Evaluated:
    return evaluate_answers(given, images_of(given), ("val", "test"), BINS, CONFIG, 0)


def value(evaluated: Evaluated, split: str, metric: str) -> float:
    rows = evaluated.metrics
    of = pc.and_(pc.equal(rows["split"], split), pc.equal(rows["metric"], metric))
    assert rows.filter(of).num_rows == 1
    return float(rows.filter(of)["value"][0].as_py())


def test_tables_fit_their_schemas_and_name_every_figure() -> None:
    evaluated = evaluated_from(answers())
    conform(evaluated.predictions, PREDICTIONS.schema)
    conform(evaluated.reference_values, REFERENCE_VALUES.schema)
    conform(evaluated.metrics, METRICS.schema)
    of_scores = ("plcc", "srcc", "krcc", "rmse", "mae", "plcc_logistic", "plcc_logistic_same")
    names = {"parse_rate", "spread_bins", "crps", "distinct_texts", "mean_words"}
    names |= {f"{name}_stated" for name in ("srcc", "plcc", "krcc", "mae", "exact", "within_one", "ties")}
    for val, readings in ((40, ("unfitted", "fitted")), (60, ("unfitted", "fitted", "monotone"))):
        evaluated = evaluated_from(answers(val=val))
        rows = evaluated.metrics
        named = set(zip(rows["split"].to_pylist(), rows["metric"].to_pylist(), strict=True))
        wanted = names | {f"{name}_{reading}" for name in of_scores for reading in readings}
        intervals = {f"{kind}_{level}" for kind in ("coverage", "width") for level in ("50", "80", "90", "95")}
        assert named == {("val", name) for name in wanted} | {("test", name) for name in wanted | intervals}
        assert evaluated.predictions["predicted_monotone"].null_count == (0 if val == 60 else val + 30)
        assert evaluated.reference_values["monotone"].null_count == (0 if val == 60 else 10)


def test_figures_are_those_of_scipy_and_of_the_stated_digit() -> None:
    given = answers(val=60, test=80)
    evaluated, test = evaluated_from(given), given.slice(60)
    stated = np.array(test["score_distribution"].to_pylist()).argmax(1)
    true, bins = test["score"].to_numpy(), test["bin"].to_numpy()
    assert value(evaluated, "test", "srcc_stated") == pytest.approx(stats.spearmanr(true, stated).statistic)
    assert value(evaluated, "test", "krcc_stated") == pytest.approx(stats.kendalltau(true, stated).statistic)
    assert value(evaluated, "test", "mae_stated") == pytest.approx(np.abs(bins - stated).mean())
    assert value(evaluated, "test", "within_one_stated") == pytest.approx((np.abs(bins - stated) <= 1).mean())
    predicted = evaluated.predictions["predicted_monotone"].to_numpy()
    assert value(evaluated, "test", "plcc_monotone") == pytest.approx(stats.pearsonr(true, predicted[60:]).statistic)
    expected = np.array(test["score_distribution"].to_pylist()) @ np.arange(10)
    assert value(evaluated, "test", "spread_bins") == pytest.approx(expected.std())
    low, high = (
        evaluated.predictions[name].to_numpy(zero_copy_only=False) for name in ("interval_low", "interval_high")
    )
    assert np.isnan(low[:60]).all() and (low[60:] <= predicted[60:]).all() and (predicted[60:] <= high[60:]).all()
    inside = (low[60:] <= true) & (true <= high[60:])
    assert value(evaluated, "test", "coverage_90") == pytest.approx(inside.mean()) and 0.75 < inside.mean() <= 1


def test_votes_of_raters_are_compared_with_the_distribution() -> None:
    given = answers(val=60, test=80)
    votes = np.random.default_rng(2).integers(1, 9, (140, 3))
    images = images_of(given)
    for at, value_of in enumerate((20, 50, 80.5)):
        images = images.append_column(f"votes_{value_of}", pa.array(votes[:, at]))
    evaluated = evaluate_answers(given, images, ("val", "test"), BINS, CONFIG, 0)
    values = evaluated.reference_values["monotone"].to_numpy()
    p = np.array(given["score_distribution"].to_pylist())
    expected = [stats.wasserstein_distance(values, [20, 50, 80.5], p[at], votes[at]) for at in range(60, 140)]
    assert value(evaluated, "test", "emd") == pytest.approx(np.mean(expected))


def test_monotone_predictions_stay_in_the_range_of_validation_scores() -> None:
    given = answers(val=60, test=80)
    evaluated = evaluated_from(given)
    values = evaluated.reference_values["monotone"].to_numpy()
    val = given["score"].to_numpy()[:60]
    assert (np.diff(values) >= 0).all() and val.min() <= values[0] and values[-1] <= val.max()


@pytest.mark.parametrize(("val", "reading"), [(60, "monotone"), (40, "unfitted")])
def test_new_images_get_the_prediction_and_the_interval_of_the_evaluation(val: int, reading: str) -> None:
    given = answers(val=val, test=20)
    evaluated = evaluated_from(given)
    test = given.slice(val)
    images = pa.table(
        {
            "image": test["image"],
            "image_sha256": [f"{n}" for n in range(20)],
            "problem": pa.array([None] * 19 + ["not an image"], pa.string()),
        }
    )
    asked = test.set_column(test.column_names.index("image_sha256"), "image_sha256", images["image_sha256"])
    rows = new_predictions(images, asked, scale_of(evaluated.reference_values, evaluated.predictions, 0)).to_pylist()
    known = evaluated.predictions.slice(val).to_pylist()
    for row, before in zip(rows[:19], known, strict=False):
        assert row["reading"] == reading and row["predicted"] == pytest.approx(before[f"predicted_{reading}"])
        assert row["interval_low"] == pytest.approx(before["interval_low"])
        assert row["interval_low"] < row["predicted"] < row["interval_high"] == pytest.approx(before["interval_high"])
    assert rows[19]["predicted"] is None and rows[19]["interval_low"] is None and rows[19]["problem"] == "not an image"


def test_images_of_a_group_widen_the_intervals() -> None:
    given = answers(val=60, test=80)
    groups = [f"g{at // 8}" for at in range(given.num_rows)]
    grouped = pa.table({"image": given["image"], "group": groups})
    alone, together = (
        evaluate_answers(given, images, ("val", "test"), BINS, CONFIG, 0).metrics
        for images in (images_of(given), grouped)
    )
    width = [
        next(r["high"] - r["low"] for r in t.to_pylist() if (r["split"], r["metric"]) == ("test", "mae_monotone"))
        for t in (alone, together)
    ]
    assert width[0] != width[1]


def test_unfitted_predictions_use_the_means_of_the_bins() -> None:
    given = answers()
    evaluated = evaluated_from(given)
    assert evaluated.reference_values["unfitted"].to_pylist() == MEANS.tolist()
    p = np.array(given["score_distribution"].to_pylist())
    np.testing.assert_allclose(evaluated.predictions["predicted_unfitted"].to_numpy(), p @ MEANS)
    rmse = np.sqrt(np.mean((p @ MEANS - given["score"].to_numpy())[40:] ** 2))
    assert value(evaluated, "test", "rmse_unfitted") == pytest.approx(rmse)


def test_the_fit_is_that_of_validation_and_never_sees_a_test_score() -> None:
    plain, shifted = (evaluated_from(answers(test_shift=shift)) for shift in (0.0, 500.0))
    assert plain.reference_values.equals(shifted.reference_values)
    assert plain.predictions["predicted_fitted"].equals(shifted.predictions["predicted_fitted"])
    assert value(shifted, "test", "rmse_fitted") > 400 > value(plain, "test", "rmse_fitted")
    given = answers()
    p, score = np.array(given["score_distribution"].to_pylist())[:40], given["score"].to_numpy()[:40]
    by_hand = np.linalg.lstsq(p, score, rcond=None)[0]
    np.testing.assert_allclose(plain.reference_values["fitted"].to_numpy(), by_hand)
    assert value(plain, "val", "rmse_fitted") <= value(plain, "val", "rmse_unfitted")


def test_unparsed_answers_count_for_the_scores_and_against_the_parse_rate() -> None:
    evaluated = evaluated_from(answers(parsed=55))
    assert value(evaluated, "val", "parse_rate") == 1.0
    assert value(evaluated, "test", "parse_rate") == 0.5
    assert not is_collapsed(evaluated.metrics, 0.5) and is_collapsed(evaluated.metrics, 0.51)
    assert set(evaluated.metrics["rows"].to_pylist()) == {40, 30}


def test_a_model_is_asked_about_every_image(tiny_model: Path) -> None:
    vlm = load_base(model_ref(tiny_model), torch.device("cpu"))
    chat = render_chat(vlm.processor, PROMPT)
    scores = resolve_score_tokens(vlm.processor.tokenizer, chat)
    images = image_table(5, "test")

    def ask(batch_size: int) -> pa.Table:
        return answer_images(
            vlm, chat, scores, images, open_picture,
            max_new_tokens=6, batch_size=batch_size, progress=Progress("answers", 5),
        )  # fmt: skip

    table = ask(2)
    assert table.schema == MODEL_ANSWERS.schema and table["image"].to_pylist() == images["image"].to_pylist()
    assert table["text"].to_pylist() == ask(5)["text"].to_pylist()
    assert not any(table["parsed"].to_pylist()) and table["stated_score"].null_count == 5  # a random model babbles
    assert all(sum(row) == pytest.approx(1) for row in table["score_distribution"].to_pylist())
