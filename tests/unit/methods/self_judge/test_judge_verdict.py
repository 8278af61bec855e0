"""The verdict of a judge follows its accuracy, the paired difference to the base, and the control."""

from typing import Any

import pyarrow as pa
import pytest

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_judge.evaluation import judgement_metrics
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe
from pipeline_lib.methods.self_judge.report import HELD_OUT, JudgeResults, Results
from pipeline_lib.methods.self_judge.tables import JUDGEMENTS
from pipeline_lib.methods.self_judge.verdict import run_verdict

COUNT = 200


def judge(iteration: int, share_right: float, name: str) -> JudgeResults:
    texts = dict.fromkeys(("dimension", "question", "better", "worse", "text_first", "text_second"), "x")
    rows = [
        {"image": f"{at}", "image_sha256": "s", "pair_id": str(at), "group": str(at), **texts}
        | {"p_better_first": 0.5, "p_better_second": 0.5}
        | {f"verdict_{order}": right if at < COUNT * share_right else wrong
           for order, right, wrong in (("first", "A", "B"), ("second", "B", "A"))}
        for at in range(COUNT)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=JUDGEMENTS.schema)
    return JudgeResults(iteration, {name: table}, {name: judgement_metrics(table, "test", Bootstrap(), 0)}, None)


def results(*shares: float, control: float | None = None, name: str = HELD_OUT) -> Results:
    recipe = SelfJudgeRecipe.model_validate({"name": "r", "data": {"table": "t.csv"}, "model": {"id": "bundled"}})
    judges = [judge(at, share, name) for at, share in enumerate(shares)]
    others: list[Any] = [judge(7, control, name)] if control is not None else []
    return Results(recipe, "", "", "m", pa.table({}), judges, others, {})


@pytest.mark.parametrize(
    ("shares", "control", "answer", "taught"),
    [
        ((0.5, 0.9), None, "yes", "Yes."),
        ((0.5, 0.9), 0.5, "yes", "Yes."),
        ((0.5, 0.9), 0.9, "yes", "No."),
        ((0.9, 0.4), None, "no", "No."),
        ((0.4, 0.4), None, "no", "Not shown."),
        ((0.54, 0.54), None, "not shown", "Not shown."),
    ],
)
def test_the_verdict_of_a_judge(shares: tuple[float, float], control: float | None, answer: str, taught: str) -> None:
    verdict = run_verdict(results(*shares, control=control))
    assert (verdict.answer, verdict.points[1].answer) == (answer, taught)
    assert "not the truth" in verdict.points[0].reasons[1] and any("evaluation.pairs" in s for s in verdict.next_steps)
    assert ("does not count" in " ".join(verdict.points[1].reasons)) == (control == 0.9)


def test_pairs_of_known_preference_are_named() -> None:
    verdict = run_verdict(results(0.5, 0.9, name="bench"))
    assert "pairs of known preference (bench)" in verdict.points[0].reasons[0] and len(verdict.points[0].reasons) == 1
