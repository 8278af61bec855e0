"""The verdict follows the paired differences: wrong statements must fall, accuracy must rise, both beyond a control."""

from typing import Any

import pyarrow as pa
import pytest

from pipeline_lib.methods.stic.recipe import SticRecipe
from pipeline_lib.methods.stic.report import Results
from pipeline_lib.methods.stic.verdict import run_verdict
from pipeline_lib.tables.metrics import METRICS

UP, DOWN, NONE = (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), (0.0, -0.1, 0.1)


def results(wrong: Any, right: Any, control: Any = None) -> Results:
    words = {UP: "raised", DOWN: "lowered", NONE: "no difference shown"}
    rows = [("base", "stage 2", "wrong_statements", wrong), ("base", "stage 2", "accuracy_described", right)]
    rows += [("stage 2", "control", "wrong_statements", control)] if control else []
    found = [
        {"earlier": earlier, "later": later, "metric": metric, "rows": 9, "change": words[value]}
        | dict(zip(("value", "low", "high"), value, strict=True))
        for earlier, later, metric, value in rows
        if value
    ]
    names = ("earlier", "later", "metric", "value", "low", "high", "rows", "change")
    differences = pa.table({name: [row[name] for row in found] for name in names})
    recipe = SticRecipe.model_construct(model=SticRecipe.model_fields["model"].annotation(id="bundled"))
    empty, none = pa.Table.from_pylist([], schema=METRICS.schema), pa.table({})
    models: Any = [None] * (4 if control else 3)
    return Results(recipe, None, "m", models, [empty] * 4, differences, none, none, none, [], none)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "right", "control", "answers"),
    [
        (DOWN, UP, None, ["Yes.", "Yes."]),
        (UP, DOWN, None, ["No.", "No."]),
        (NONE, UP, None, ["Not shown.", "Yes."]),
        (DOWN, UP, UP, ["Yes.", "Yes."]),
        (DOWN, UP, NONE, ["No.", "Yes."]),
        (None, UP, None, ["Yes."]),
        (None, None, None, ["Not shown."]),
    ],
)
def test_the_verdict_of_a_run(wrong: Any, right: Any, control: Any, answers: list[str]) -> None:
    verdict = run_verdict(results(wrong, right, control))
    assert [point.answer for point in verdict.points] == answers
    assert verdict.answer == answers[0].rstrip(".").lower() and verdict.best is None
    assert any("whyscore control" in step for step in verdict.next_steps) == ("Yes." in answers and control is None)
    assert ("does not count" in " ".join(verdict.points[0].reasons)) == (control is NONE)
