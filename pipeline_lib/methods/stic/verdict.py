"""The verdict of a run for a person who wants a model that describes and answers better."""

from typing import Any

from pipeline_lib.methods.stic.report import DIFFERENCE_COLUMNS, Results
from pipeline_lib.metrics.scores import Estimate, estimate_of
from pipeline_lib.report.formatting import Column, decimal, estimate_text
from pipeline_lib.report.verdict import ANSWERS, Answer, Point, Verdict

BETTER = {"wrong_statements": "lowered", "accuracy_described": "raised"}
"""What is asked about, and the change that is better."""

_QUESTIONS = {
    "wrong_statements": "Does the model now say less that is wrong?",
    "accuracy_described": "Does it answer better behind its own description?",
}
_DIFFERENCE = Column("", "", 3, 3)


def run_verdict(results: Results) -> Verdict:
    """From the paired differences of stage 2 to the base and, where there is one, to the control."""
    points: list[Point] = []
    answers: list[Answer] = []
    for metric, better in BETTER.items():
        gain = _difference(results, "base", "stage 2", metric)
        if gain is None:
            continue
        answer, reasons = _answer(gain["change"], better), [_figures(results, metric, gain)]
        control = _difference(results, "stage 2", "control", metric)
        if control is not None:
            worse = {"lowered": "raised", "raised": "lowered"}[better]
            beyond = control["change"] == worse
            answer = answer if beyond or answer != "yes" else "no"
            end = "." if beyond else ": a gain is not beyond it, so it does not count."
            reasons.append(f"The control, which learned exchanged preferences, less stage 2: {_estimate(control)}{end}")
        points.append(Point(question=_QUESTIONS[metric], answer=ANSWERS[answer], reasons=tuple(reasons)))
        answers.append(answer)
    if not points:
        said = "No question of this run can be checked, so nothing can be said of its model."
        points.append(Point(question="Is the model better now?", answer=ANSWERS["not shown"], reasons=(said,)))
        answers.append("not shown")
    steps = []
    if results.recipe.model.id == "bundled" and results.recipe.model.from_run is None:
        steps.append("Take a real model. The bundled one is for trying WhyScore out.")
    if "not shown" in answers:
        steps.append("Give more questions for measuring: an interval that holds 0 shows nothing.")
    if len(results.models) < 4 and "yes" in answers:
        steps.append("Run `whyscore control` with this recipe: a gain counts only beyond its control.")
    return Verdict(answer=answers[0], points=tuple(points), next_steps=tuple(steps))


def _answer(change: str, better: str) -> Answer:
    if change == better:
        return "yes"
    return "no" if change in ("raised", "lowered") else "not shown"


def _figures(results: Results, metric: str, row: dict[str, Any]) -> str:
    before, after = (decimal(estimate_of(results.metrics[at], metric).value, 3) for at in (0, 2))
    what = DIFFERENCE_COLUMNS[metric]
    return f"{what[:1].upper()}{what[1:]}: {before} before, {after} after both stages, difference {_estimate(row)}."


def _estimate(row: dict[str, Any]) -> str:
    return estimate_text(_DIFFERENCE, Estimate(row["value"], row["low"], row["high"], row["rows"]))


def _difference(results: Results, earlier: str, later: str, metric: str) -> dict[str, Any] | None:
    for row in results.differences.to_pylist():
        if (row["earlier"], row["later"], row["metric"]) == (earlier, later, metric):
            return dict(row)
    return None
