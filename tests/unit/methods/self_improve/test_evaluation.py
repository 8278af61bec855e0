"""From a model's answers to predictions and metrics: the fit sees validation alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from pipeline_lib.methods.self_improve.evaluation import (
    Evaluated,
    answer_images,
    evaluate_answers,
    is_collapsed,
)
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


def value(evaluated: Evaluated, split: str, metric: str) -> float:
    rows = evaluated.metrics
    of = pc.and_(pc.equal(rows["split"], split), pc.equal(rows["metric"], metric))
    assert rows.filter(of).num_rows == 1
    return float(rows.filter(of)["value"][0].as_py())


def test_tables_fit_their_schemas_and_name_every_figure() -> None:
    evaluated = evaluate_answers(answers(), ("val", "test"), BINS, CONFIG, 0)
    conform(evaluated.predictions, PREDICTIONS.schema)
    conform(evaluated.reference_values, REFERENCE_VALUES.schema)
    metrics = conform(evaluated.metrics, METRICS.schema)
    names = {"parse_rate"} | {f"{m}_{fit}" for m in ("plcc", "srcc", "rmse") for fit in ("fitted", "unfitted")}
    assert set(zip(metrics["split"].to_pylist(), metrics["metric"].to_pylist(), strict=True)) == {
        (split, name) for split in ("val", "test") for name in names
    }


def test_unfitted_predictions_use_the_means_of_the_bins() -> None:
    given = answers()
    evaluated = evaluate_answers(given, ("val", "test"), BINS, CONFIG, 0)
    assert evaluated.reference_values["unfitted"].to_pylist() == MEANS.tolist()
    p = np.array(given["score_distribution"].to_pylist())
    np.testing.assert_allclose(evaluated.predictions["predicted_unfitted"].to_numpy(), p @ MEANS)
    rmse = np.sqrt(np.mean((p @ MEANS - given["score"].to_numpy())[40:] ** 2))
    assert value(evaluated, "test", "rmse_unfitted") == pytest.approx(rmse)


def test_the_fit_is_that_of_validation_and_never_sees_a_test_score() -> None:
    plain, shifted = (
        evaluate_answers(answers(test_shift=shift), ("val", "test"), BINS, CONFIG, 0) for shift in (0.0, 500.0)
    )
    assert plain.reference_values.equals(shifted.reference_values)
    assert plain.predictions["predicted_fitted"].equals(shifted.predictions["predicted_fitted"])
    assert value(shifted, "test", "rmse_fitted") > 400 > value(plain, "test", "rmse_fitted")
    given = answers()
    p, score = np.array(given["score_distribution"].to_pylist())[:40], given["score"].to_numpy()[:40]
    by_hand = np.linalg.lstsq(p, score, rcond=None)[0]
    np.testing.assert_allclose(plain.reference_values["fitted"].to_numpy(), by_hand)
    assert value(plain, "val", "rmse_fitted") <= value(plain, "val", "rmse_unfitted")


def test_unparsed_answers_count_for_the_scores_and_against_the_parse_rate() -> None:
    evaluated = evaluate_answers(answers(parsed=55), ("val", "test"), BINS, CONFIG, 0)
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
