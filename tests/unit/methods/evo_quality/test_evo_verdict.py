"""The verdict of a run that never saw a label: what the labels, or without them the votes, can say of it."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr
from test_rating_figures import of_controls, ratings, results, with_metrics

from pipeline_lib.methods.evo_quality.report import Results
from pipeline_lib.methods.evo_quality.verdict import best_round, run_verdict
from pipeline_lib.report.verdict import Verdict


def said(verdict: Verdict, question: str) -> str:
    (point,) = (point for point in verdict.points if question in point.question)
    return " ".join([point.answer, *point.reasons])


def with_noise(*noises: float) -> Results:
    """A run whose base and rounds rate with so much noise."""
    found = results()
    rounds = [
        replace(found.rounds[min(number, 1)], round_number=number, labelled={"test": with_metrics(ratings(noise))})
        for number, noise in enumerate(noises)
    ]
    return replace(found, rounds=rounds)


def test_a_good_run_without_and_with_controls() -> None:
    verdict = run_verdict(results())
    assert verdict.answer == "yes" and verdict.warnings == ()
    assert "SRCC of its mean rating on 60 labelled images" in said(verdict, "good images")
    assert said(verdict, "voting").startswith("Yes. ") and "No control" in said(verdict, "voting")
    assert "1 to 5, not on your own scale" in said(verdict, "far off")
    assert verdict.best is not None and (verdict.best.iteration, verdict.best.kind) == (1, "ranking")
    beyond = run_verdict(results(of_controls(1.5)))
    assert "beyond the control" in said(beyond, "voting")
    equal = run_verdict(results(of_controls(0.3)))
    assert said(equal, "voting").startswith("No. ") and "does not count" in equal.warnings[0]
    steps = [any("whyscore control" in step for step in one.next_steps) for one in (verdict, beyond, equal)]
    assert steps == [True, False, False]


def test_the_best_round_is_used_and_ties_go_to_the_earliest() -> None:
    assert best_round(with_noise(1.5, 0.3, 1.5)).round_number == 1
    assert best_round(with_noise(1.5, 0.3, 0.3)).round_number == 1
    base = run_verdict(with_noise(0.1, 1.5))
    assert base.best is not None and (base.best.iteration, base.best.kind) == (0, "zero-shot")
    assert said(base, "voting").startswith("No. ") and "did not make the model better" in base.warnings[0]


def test_a_difference_whose_interval_holds_0_is_no_gain() -> None:
    found = results()
    pair = [alike(3), alike(4)]
    tables = sorted(pair, key=lambda table: spearmanr(table["score"], table["mean"])[0])
    rounds = [
        replace(model, labelled={"test": with_metrics(table)})
        for model, table in zip(found.rounds, tables, strict=True)
    ]
    verdict = run_verdict(replace(found, rounds=rounds))
    assert verdict.best is not None and verdict.best.iteration == 1
    assert said(verdict, "voting").startswith("Not shown. ") and "holds 0" in said(verdict, "voting")


def alike(seed: int) -> pa.Table:
    """Ratings of the same quality for each seed."""
    table = ratings(0.1)
    means = 3 + 0.2 * (table["score"].to_numpy() - 5) + np.random.default_rng(seed).normal(0, 0.3, table.num_rows)
    return table.set_column(table.column_names.index("mean"), "mean", pa.array(means))


@pytest.mark.parametrize("noise", [60.0])
def test_a_model_of_noise_is_never_called_good(noise: float) -> None:
    verdict = run_verdict(with_noise(noise, noise))
    assert verdict.answer in ("no", "not shown") and "good images from bad ones" in verdict.warnings[0]


def test_without_labels_nothing_is_said_of_people() -> None:
    verdict = run_verdict(results(labelled=False))
    assert verdict.answer == "not shown" and verdict.best is None
    only = said(verdict, "good images")
    assert "without labels" in only and "of 40 held-out pairs" in only and "Votes are no truth" in only
    assert "evaluation.labelled" in verdict.next_steps[0] and "no labels" in verdict.warnings[0]
