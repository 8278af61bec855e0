"""The results of a run as a table for the terminal."""

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.control import control_lines, control_section
from pipeline_lib.methods.self_improve.report.faithfulness_figures import probed
from pipeline_lib.methods.self_improve.report.judge_error import judge_error
from pipeline_lib.methods.self_improve.report.judges import (
    judge_pairs,
    judged_columns,
    lead_judge,
    unscored,
    who_judged,
)
from pipeline_lib.methods.self_improve.report.left_out import left_out
from pipeline_lib.methods.self_improve.report.lineage import on_validation
from pipeline_lib.methods.self_improve.report.seen import seen_section
from pipeline_lib.methods.self_improve.report.verdict import collapses, cons_column, used_srcc, verdict
from pipeline_lib.report.formatting import (
    CONS,
    OWN_SCORE,
    PARSE_RATE,
    RECOVERED_SPEARMAN,
    SRCC_FITTED,
    SRCC_STATED,
    TEXT_CHANGE,
    TEXT_CHANGE_BASELINE,
    VALIDATION_COLUMNS,
    Column,
    decimal,
    estimate_text,
    percent,
)

_HEADING = {
    RECOVERED_SPEARMAN: "Score from text",
    OWN_SCORE: "Names its score",
}
_PROBED = (RECOVERED_SPEARMAN, TEXT_CHANGE, TEXT_CHANGE_BASELINE, OWN_SCORE)


def results_table(results: RunResults) -> str:
    """A row a model with its figures on test, `value [low high]`; notes below say what the figures are and who judged.

    Other figures of the explanations (further grades, a second judge, faithfulness) are a second table. A
    collapsed model (parse rate under `evaluation.min_parse_rate`) has an asterisk and a note.
    """
    cons = cons_column(results)
    columns = (SRCC_STATED, used_srcc(results), SRCC_FITTED, CONS, *({cons} - {CONS}), PARSE_RATE)
    headed = [
        ["", *(column.heading for column in columns)],
        *(_row(results, model, columns) for model in results.models),
    ]
    parts = [_aligned(headed)]
    more = [*judged_columns(results)[1:], *(_PROBED if probed(results) else ())]
    headings = ["", *(_HEADING.get(column, column.heading) for column in more)]
    if more:
        parts.append(_aligned([headings, *(_row(results, model, tuple(more)) for model in results.models)]))
    if results.branches:
        lines = [["On validation", *(column.heading for column in VALIDATION_COLUMNS)]]
        for model in on_validation(results):
            figures = (model.metric_or_nan(column.metric, "val") for column in VALIDATION_COLUMNS)
            lines.append([model.name, *map(estimate_text, VALIDATION_COLUMNS, figures)])
        parts.append(_aligned(lines))
    if control := control_section(results.recipe, results.control):
        parts.append(control_lines(control))
    return "\n".join([*"\n\n".join("\n".join(part) for part in parts).splitlines(), "", *_notes(results)]) + "\n"


def _row(results: RunResults, model: ModelResults, columns: tuple[Column, ...]) -> list[str]:
    mark = " *" if model.is_collapsed(results.recipe.evaluation.min_parse_rate) else ""
    return [model.name + mark, *(estimate_text(column, model.metric_or_nan(column.metric)) for column in columns)]


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    table.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return table


def _notes(results: RunResults) -> list[str]:
    evaluation = results.recipe.evaluation
    images = results.models[0].metric("parse_rate").rows
    error = judge_error(results.judge_holdout)
    notes = [
        f"Test split, {images} images, scored by {results.prompt.criterion.score}. Stated: the most probable digit."
        f" {results.reading.capitalize()}: the reading that predictions use. Fitted:"
        " reference values by least squares on validation, as in the paper.",
        f"[low high]: {percent(evaluation.confidence)} bootstrap over groups of images, {evaluation.bootstrap_samples}"
        " resamples; Wilson's for rates.",
        *verdict(results)[: -len(collapses(results)) or None],
        who_judged(results),
        *filter(None, [unscored(results)]),
    ]
    if pairs := judge_pairs(results):
        together = pairs[-1].agreement
        notes.append(
            f"{lead_judge(results)} and the round-trip judge on {together.rows} explanations of all models: Spearman"
            f" {estimate_text(CONS, together.spearman)}, weighted kappa {estimate_text(CONS, together.kappa)}."
        )
    notes.append(
        f"The round-trip judge’s own error on {error.explanations} held-out explanations: MAE {decimal(error.mae, 2)}"
        f" points of 0..9, correlation {decimal(error.correlation, 2)}."
    )
    if seen := seen_section(results):
        for row in seen.rows:
            found = ", ".join(f"{name} {cell}" for name, cell in zip(seen.headings, row["cells"], strict=True))
            notes.append(f"The judge that sees the image, of {row['name']}: {found}.")
        notes += seen.sentences
    if sentences := left_out(results):
        notes.append("Training pairs: " + " ".join(sentences))
    if probed(results):
        notes.append(
            "Score from text: rank correlation of the stated score with the score read from the explanation’s words."
            " Text change: between explanations of the same score for the image and another one; 0 none, 1 no common"
            " word. Baseline: between the model’s own answers to the two images."
        )
    if results.branches:
        notes.append(
            "On validation: branches that the recipe does not test (evaluation.branches: val), without readings that"
            " are fitted on validation. The round-trip judge rates Cons."
        )
    if control := control_section(results.recipe, results.control):
        notes += control.sentences
    return [*notes, *(f"* {sentence}" for sentence in collapses(results))]
