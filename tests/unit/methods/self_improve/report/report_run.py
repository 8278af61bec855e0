"""An invented run: answers drawn at random, figures and verdicts by the library's own functions."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from pipeline_lib.methods.self_improve.bins import assign_bins, bins_table, fit_bins
from pipeline_lib.methods.self_improve.evaluation import MODEL_ANSWERS, evaluate_answers
from pipeline_lib.methods.self_improve.faithfulness import (
    Replies,
    draw_probes,
    faithfulness_metrics,
    faithfulness_table,
)
from pipeline_lib.methods.self_improve.judge_metrics import gaming_metrics, judge_metrics
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.report.contents import Judged, ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.differences import differences
from pipeline_lib.methods.self_improve.round_trip import fit_judge, judge_predictions, load_judge
from pipeline_lib.methods.self_improve.tables import PREDICTIONS, REFERENCE_VALUES, VERDICTS
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.tables.table import conform

HOSTILE = "<script>alert('x')</script> & <b>bold</b>"

_GOOD = ["crisp focus", "warm light", "balanced framing", "rich colour", "a clear subject", "pleasing depth"]
_FAIR = ["acceptable framing", "ordinary light", "a plain background", "modest contrast", "a usual viewpoint"]
_BAD = ["heavy blur", "harsh noise", "a tilted horizon", "blown highlights", "muddy colour", "a cluttered scene"]


def explanation(score: int, rng: np.random.Generator, long: bool = False) -> str:
    """A text whose words lean to the score."""
    sentences = []
    for _ in range(int(rng.integers(6, 12)) if long else int(rng.integers(2, 4))):
        words = [_BAD, _FAIR, _GOOD][int(np.clip(round((score + rng.normal(0, 1.6)) / 4.5), 0, 2))]
        first, second = rng.choice(words, 2, replace=False)
        sentences.append(f"The photograph shows {first} together with {second}, which settles much of the impression.")
    return " ".join(sentences)


def answers(images: pa.Table, skill: float, spread: float, fidelity: float, parse_rate: float, seed: int) -> pa.Table:
    """What a model of some skill says: a distribution around a noisy digit, and a text around the stated one."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for row in images.to_pylist():
        if row["split"] == "train":
            continue
        centre = 4.5 + spread * (skill * (row["bin"] - 4.5) + (1 - skill) * rng.normal(0, 3.4))
        weights = np.exp(-0.5 * ((np.arange(10) - centre) / 1.2) ** 2) + 1e-4
        distribution = weights / weights.sum()
        stated = int(distribution.argmax())
        meant = stated if rng.random() < fidelity else int(rng.integers(10))
        said = explanation(meant, rng, long=rng.random() < 0.2)
        said = f"{said} All in all a score of {stated} out of 9." if row["image"].endswith(("3.jpg", "8.jpg")) else said
        said = f"{HOSTILE} {said}" if row["image"].endswith("07.jpg") else said
        parsed = bool(rng.random() < parse_rate)
        text = f"#Score: {stated}\n\n#Explain: {said}" if parsed else f"#Score #Score {HOSTILE} light light light light"
        rows.append(
            {name: row[name] for name in ("image", "image_sha256", "split", "score", "bin")}
            | {
                "score_distribution": distribution.tolist(),
                "digit_mass": float(rng.uniform(0.9, 1.0)),
                "text": text,
                "text_tokens": len(text.split()),
                "parsed": parsed,
                "stated_score": stated if parsed else None,
                "explanation": said if parsed else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=MODEL_ANSWERS.schema)


def training_log(kind: str, iteration: int, steps: int) -> pa.Table:
    """Curves of a training that goes well."""
    rng = np.random.default_rng(100 * iteration + len(kind))
    t = np.arange(1, steps + 1)
    margin = (1.8 if kind == "score" else 2.6) * (1 - np.exp(-t / (steps / 3))) + rng.normal(0, 0.12, steps)
    return pa.table(
        {
            "step": t.astype(np.int32),
            "loss": np.log1p(np.exp(-margin)) + rng.normal(0, 0.02, steps),
            "learning_rate": 5e-5 * 0.8 ** (iteration - 1) * (1 - t / steps),
            "grad_norm": rng.uniform(0.5, 2, steps),
            "reward_margin": margin,
            "reward_accuracy": np.clip(0.5 + 0.45 * (1 - np.exp(-t / (steps / 4))) + rng.normal(0, 0.03, steps), 0, 1),
            "chosen_logp": -60 - 8 * t / steps - 3 * iteration + rng.normal(0, 1, steps),
            "rejected_logp": -66 - 22 * t / steps - 3 * iteration + rng.normal(0, 1, steps),
        }
    )


def other_explanations(probes: pa.Table, attention: float, seed: int) -> pa.Table:
    """What a model says of other images: anew with the probability `attention`, else what it said before."""
    rng = np.random.default_rng(seed)
    texts = [
        explanation(row["stated_score"], rng) if rng.random() < attention else row["explanation"]
        for row in probes.to_pylist()
    ]
    return pa.table({"image": probes["image"], "other_explanation": pa.array(texts, pa.string())})


def model_verdicts(verdicts: pa.Table, judge: str, seed: int) -> pa.Table:
    """A judge model near the round-trip judge's opinion, which refuses now and then."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = verdicts.to_pylist()
    for row in rows:
        row |= {"judge": judge, "recovered_score": None}
        if row["status"] == "unparsed":
            continue
        if rng.random() < 0.04:
            row |= {"status": str(rng.choice(["refused", "malformed"])), "consistency": None}
            continue
        grade = int(np.clip(row["consistency"] + rng.integers(-1, 2), 0, 4))
        row |= {"consistency": grade, "usefulness": max(0, grade - 1), "general": int(rng.integers(2, 4))}
    return pa.Table.from_pylist(rows, schema=VERDICTS.schema)


def invented_run(
    steps: int = 40,
    test_images: int = 60,
    *,
    judge_model: str | None = None,
    probed: bool = False,
    prompt: str = "aesthetics",
    **training: Any,
) -> RunResults:
    """Zero-shot and three iterations; `training` sets fields of the recipe's section.

    With `judge_model` a judge model leads, the round-trip judge beside it; with `probed` there is faithfulness.
    """
    recipe = SelfImproveRecipe.model_validate(
        {
            "name": "invented",
            "iterations": 3,
            "prompt": prompt,
            "data": {"table": "/somewhere/private/ratings.csv"},
            "model": {"id": "acme/tiny-vlm", "revision": "0123456789" * 4},
            "training": {"sft_weight": 0.1, **training},
            "evaluation": {"bootstrap_samples": 100},
            "judge": {"openai": {"model": judge_model}},
            "faithfulness": {"rows": 40 if probed else 0},
        }
    )
    images, bins = _images(test_images)
    judge = fit_judge(_score_pairs(images), 0.2, 0)

    def judged(verdicts: pa.Table, *more: pa.Table) -> Judged:
        tables = [judge_metrics(verdicts, recipe.evaluation, 0), *more]
        return Judged(
            conform(verdicts, VERDICTS.schema), pa.concat_tables([conform(table, METRICS.schema) for table in tables])
        )

    def model(iteration: int, kind: Any, skill: float, spread: float, fidelity: float, rate: float) -> ModelResults:
        seed = 10 * iteration + len(kind)
        evaluated = evaluate_answers(
            answers(images, skill, spread, fidelity, rate, seed), images, ("val", "test"), bins, recipe.evaluation, 0
        )
        predictions, metrics = conform(evaluated.predictions, PREDICTIONS.schema), [evaluated.metrics]
        if probed:
            probes = draw_probes(predictions, recipe.faithfulness.rows, 0)
            others = other_explanations(probes, 0.3 + 0.2 * iteration, seed)
            alone = pa.table({"image": probes["image"], "text_distribution": probes["score_distribution"]})
            found = faithfulness_table(load_judge(judge.terms), probes, Replies(others, others, alone))
            metrics.append(faithfulness_metrics(found, predictions, recipe.evaluation, 0))
        verdicts = conform(judge_predictions(load_judge(judge.terms), predictions), VERDICTS.schema)
        own = judged(verdicts, gaming_metrics(load_judge(judge.terms), verdicts, predictions))
        return ModelResults(
            iteration,
            kind,
            predictions,
            conform(evaluated.reference_values, REFERENCE_VALUES.schema),
            pa.concat_tables([conform(table, METRICS.schema) for table in metrics]),
            judged(model_verdicts(verdicts, judge_model, seed)) if judge_model else own,
            own if judge_model else None,
            training_log(kind, iteration, steps) if kind in ("score", "consistency") else None,
        )

    models = [
        model(0, "zero-shot", 0.25, 0.35, 0.75, 0.97),
        model(1, "score", 0.75, 0.9, 0.55, 1.0),
        model(2, "score", 0.78, 1.0, 0.5, 0.98),
        model(2, "consistency", 0.6, 0.9, 0.9, 0.1),
        model(2, "merged", 0.77, 1.0, 0.75, 0.97),
        model(3, "score", 0.8, 1.0, 0.65, 1.0),
        model(3, "consistency", 0.66, 0.9, 0.97, 0.95),
        model(3, "merged", 0.79, 1.0, 0.92, 0.98),
    ]
    return RunResults(
        recipe,
        load_prompt(prompt),
        "acme/tiny-vlm",
        images,
        bins,
        pa.table({"image": ["photos/<gone>.jpg"], "reason": ["file not found"]}),
        judge.holdout,
        models,
        differences(models, recipe.evaluation, 0),
    )


def drawn_photograph(image: str, image_sha256: str) -> Image.Image:
    """A gradient with a few discs, decided by the digest."""
    rng = np.random.default_rng(int(image_sha256[:8], 16))
    size = [(448, 300), (300, 448), (400, 400)][int(rng.integers(3))]
    top, bottom = rng.integers(90, 255, 3), rng.integers(20, 160, 3)
    ramp = np.linspace(0, 1, size[1])[:, None, None]
    pixels = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (size[1], size[0], 3)).astype(np.uint8)
    picture = Image.fromarray(pixels.copy())
    brush = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, r = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(15, 90)
        brush.ellipse([x - r, y - r, x + r, y + r], fill=tuple(int(c) for c in rng.integers(0, 255, 3)))
    return picture


def metric_replaced(results: RunResults, model: str, metric: str, estimate: tuple[float, float, float]) -> RunResults:
    """The run with another figure for one model on test."""
    models = []
    for found in results.models:
        is_meant = found.name == model
        metrics, judged = (
            _replaced(table, metric, estimate) if is_meant else table for table in (found.metrics, found.judged.metrics)
        )
        models.append(found._replace(metrics=metrics, judged=found.judged._replace(metrics=judged)))
    return results._replace(models=models)


def difference_replaced(
    results: RunResults, earlier: str, later: str, metric: str, value: tuple[float, float, float]
) -> RunResults:
    """The run with another paired difference of two models."""
    rows: list[dict[str, Any]] = results.differences.to_pylist()
    for row in rows:
        if (row["earlier"], row["later"], row["metric"]) == (earlier, later, metric):
            row |= dict(zip(("value", "low", "high"), value, strict=True))
            row["change"] = change(Estimate(*value, row["rows"]))
    return results._replace(differences=pa.Table.from_pylist(rows, schema=results.differences.schema))


def _replaced(metrics: pa.Table, metric: str, estimate: tuple[float, float, float]) -> pa.Table:
    rows: list[dict[str, Any]] = metrics.to_pylist()
    for row in rows:
        if row["metric"] == metric and row["split"] == "test":
            row |= dict(zip(("value", "low", "high"), estimate, strict=True))
    return pa.Table.from_pylist(rows, schema=metrics.schema)


def _images(test_images: int) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(3)
    splits = ["train"] * 150 + ["val"] * 60 + ["test"] * test_images
    scores = np.round(np.clip(rng.normal(5.4, 0.9, len(splits)), 1, 10), 3)
    train = np.array(splits) == "train"
    fitted = fit_bins(scores[train])
    bins = assign_bins(scores, fitted.edges)
    names = [f"photos/{split}-{at:04d}.jpg" for at, split in enumerate(splits)]
    table = pa.table(
        {
            "image": names,
            "image_sha256": [hashlib.sha256(name.encode()).hexdigest() for name in names],
            "width_px": pa.array([448] * len(names), pa.int32()),
            "height_px": pa.array([300] * len(names), pa.int32()),
            "score": scores,
            "bin": bins,
            "split": splits,
            "group": names,
        }
    )
    return table, bins_table(fitted, bins[train])


def _score_pairs(images: pa.Table) -> pa.Table:
    rng = np.random.default_rng(5)
    rows = []
    for row in images.to_pylist():
        if row["split"] == "train":
            true = row["bin"]
            wrong = int(rng.choice([score for score in range(10) if abs(score - true) >= 3]))
            rows.append(
                {"image": row["image"], "true_score": true, "wrong_score": wrong}
                | {
                    side: f"#Score: {score}\n\n#Explain: {explanation(score, rng)}"
                    for side, score in (("chosen", true), ("rejected", wrong))
                }
            )
    return pa.Table.from_pylist(rows)
