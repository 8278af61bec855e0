"""The comparisons of the experiments: the ablation (Table 3), the grid search (A.1) and other merges."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import yaml

from pipeline_lib.methods.self_improve.recipe import Merge, SelfImproveRecipe, Training
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.comparison import Comparison, Row
from pipeline_lib.report.formatting import (
    CONS,
    PARSE_RATE,
    PLCC_FITTED,
    PLCC_UNFITTED,
    SRCC_FITTED,
    SRCC_STATED,
    SRCC_UNFITTED,
    Column,
    decimal,
    percent,
)

ROW_NAMES = {
    "sft_score": "SFT score",
    "sft_score_text": "SFT score & text",
    "dpo": "DPO",
    "iterative_dpo": "iterative DPO",
}
"""The rows of the paper's Table 3."""

_PAPER_TABLE_3 = (
    ("SFT score", ".778", ".768", ".68"),
    ("SFT score & text", ".712", ".702", "3.13"),
    ("DPO", ".742", ".733", "2.98"),
    ("iterative DPO", ".716", ".739", "3.57"),
)


class Result(NamedTuple):
    """One model of an experiment with the tables that its evaluation and its judge left, in `METRICS`."""

    name: str
    metrics: list[pa.Table]
    training: Training | None = None  # the cell of a grid
    merge: Merge | None = None


def ablation_comparison(recipe: SelfImproveRecipe, results: Iterable[Result]) -> Comparison:
    """The paper's Table 3 for this run (section 5.2), on test; the zero-shot model stands first."""
    rows = []
    for result in results:
        row = _row(recipe, result, apart=result.name == "zero-shot")
        rows.append(row._replace(name=ROW_NAMES.get(row.name, row.name), leads=result.name == "iterative_dpo"))
    return Comparison(
        kind="ablation",
        title=recipe.name,
        lead=(
            f"Four ways to train on the same base, images and number of steps ({recipe.iterations} iterations). They"
            " show what self-training adds to supervised training, and iterating to preference optimisation.",
        ),
        heading="Table 3 of this run",
        split="test",
        columns=(SRCC_STATED, SRCC_UNFITTED, PLCC_FITTED, SRCC_FITTED, CONS, PARSE_RATE),
        drawn=(SRCC_STATED, CONS),
        rows=rows,
        notes=(
            "Test split. Stated: the most probable digit. Unfitted: reference values are bin means. Fitted: reference"
            " values by least squares on validation, as in the paper; they raise figures of a model trained on noise.",
            "SFT score trains on the scores of the base’s chosen answers, SFT score & text on the whole answers, DPO on"
            " the pairs that the base wrote, with one merge at the end; iterative DPO is the run itself.",
            *_judge_notes(recipe),
            *_common_notes(recipe, rows),
        ),
        paper=(
            "The paper’s own Table 3: LLaVA-NeXT-7B on AVA, Cons by GPT-4o over all answers. Model, images and judge"
            " are not those of this run.",
            ("", "PLCC", "SRCC", "Cons"),
            _PAPER_TABLE_3,
        ),
    )


def grid_comparison(recipe: SelfImproveRecipe, results: Iterable[Result]) -> Comparison:
    """Cells of a grid from the best to the worst on validation (appendix A.1), and the chosen one as recipe lines."""
    by = {column.metric: column for column in (SRCC_UNFITTED, PLCC_UNFITTED)}[recipe.grid_search.metric]
    found = sorted(((_row(recipe, result), result) for result in results), key=lambda pair: -_rank(pair[0], by))
    rows = [row for row, _ in found]
    chosen = choose(rows, by)
    equal = [] if chosen is None else [at for at in tied(rows, chosen, by) if at != chosen]
    lines = outcome = ""
    if chosen is None:
        outcome = "No cell can be chosen: each one has collapsed or has no defined figure."
    else:
        best = rows[chosen].figure(by, "val")
        rows[chosen] = rows[chosen]._replace(mark="chosen", leads=True)
        for at in equal:
            rows[at] = rows[at]._replace(mark="within its interval")
        outcome = f"Chosen: {rows[chosen].name}, {by.heading} {decimal(best.value, 3)} on validation."
        outcome += f" {len(equal)} of the {len(rows) - 1} other cells are within its interval and may be as good."
        lines = _recipe_lines(found[chosen][1].training)
    return Comparison(
        kind="grid search",
        title=recipe.name,
        lead=("Values of learning rate, beta and LoRA rank for the score training of iteration 1 (appendix A.1).",),
        heading=f"Cells by {by.heading} on validation",
        split="val",
        columns=(SRCC_UNFITTED, PLCC_UNFITTED, SRCC_STATED, PARSE_RATE),
        drawn=(by,),
        rows=rows,
        notes=(
            f"Validation split; the test split was not used. {by.heading} is unfitted: reference values are the mean"
            " training score of each bin, because fitted ones would be fitted on the same validation images.",
            f"A cell whose parse rate is under {percent(recipe.evaluation.min_parse_rate)} has collapsed and is never"
            " chosen.",
            "The best of many cells looks too good on the images it was chosen on. Use its figure on test.",
            *_common_notes(recipe, rows),
        ),
        outcome=outcome,
        recipe_lines=lines,
    )


def merge_comparison(recipe: SelfImproveRecipe, results: Iterable[Result]) -> Comparison:
    """Ways of merging the two adapters of one iteration, and the two adapters themselves, on validation."""
    rows = []
    for result in results:
        row = _row(recipe, result, apart=result.merge is None)
        marks = []
        if result.merge == Merge():
            marks.append("the paper’s")
        if result.merge == recipe.merge:
            marks.append("this recipe’s")
        rows.append(row._replace(mark=", ".join(marks), leads=result.merge == recipe.merge))
    number = recipe.merge_ablation.iteration
    return Comparison(
        kind="merge ablation",
        title=recipe.name,
        lead=(f"The score and the consistency adapter of iteration {number}, merged in {len(rows) - 2} ways.",),
        heading="Merges on validation",
        split="val",
        columns=(SRCC_UNFITTED, PLCC_UNFITTED, SRCC_STATED, CONS, PARSE_RATE),
        drawn=(SRCC_UNFITTED, CONS),
        rows=rows,
        notes=(
            "Validation split; SRCC and PLCC are unfitted (reference values: the mean training score of each bin).",
            "factors: each of the two LoRA factors is merged by itself, as in PEFT and the paper; delta: their weight"
            " update is merged and brought back to the rank by singular value decomposition.",
            *_judge_notes(recipe, local=True),
            *_common_notes(recipe, rows),
        ),
    )


def choose(rows: list[Row], by: Column) -> int | None:
    """The row with the highest figure on validation among those not collapsed, the first of equals; None if none."""
    able = [at for at, row in enumerate(rows) if not row.collapsed and math.isfinite(row.figure(by, "val").value)]
    return max(able, key=lambda at: rows[at].figure(by, "val").value, default=None)


def tied(rows: list[Row], chosen: int, by: Column) -> list[int]:
    """Rows, the chosen one among them, whose figure lies within the bootstrap interval of the chosen one's."""
    low = rows[chosen].figure(by, "val").low
    return [at for at, row in enumerate(rows) if not row.collapsed and row.figure(by, "val").value >= low]


def _rank(row: Row, by: Column) -> float:
    value = row.figure(by, "val").value
    return value if math.isfinite(value) else -math.inf


def _recipe_lines(training: Training | None) -> str:
    assert training is not None
    cell = {name: getattr(training, name) for name in ("learning_rate", "beta", "lora_rank")}
    return str(yaml.safe_dump({"training": cell}, default_flow_style=None, sort_keys=False))


def _row(recipe: SelfImproveRecipe, result: Result, *, apart: bool = False) -> Row:
    figures = {
        (row["split"], row["metric"]): Estimate(row["value"], row["low"], row["high"], row["rows"])
        for table in result.metrics
        for row in table.to_pylist()
    }
    rates = [estimate for (_, metric), estimate in figures.items() if metric == "parse_rate"]
    collapsed = any(rate.value < recipe.evaluation.min_parse_rate for rate in rates)
    return Row(result.name, figures, apart=apart, collapsed=collapsed)


def _judge_notes(recipe: SelfImproveRecipe, *, local: bool = False) -> list[str]:
    if recipe.judge.openai.model and not local:
        who = f"{recipe.judge.openai.model} rates Cons (0 to 4)"
    else:
        who = "The local round-trip judge rates Cons (0 to 4), not the paper’s GPT-4o; do not compare the two"
    return [f"{who}. Only answers in the required form are judged; the parse rate counts the others."]


def _common_notes(recipe: SelfImproveRecipe, rows: list[Row]) -> list[str]:
    config = recipe.evaluation
    notes = [
        f"[low high]: {percent(config.confidence)} bootstrap over groups of images, {config.bootstrap_samples}"
        " resamples. All models answer the same images."
    ]
    if any(row.collapsed for row in rows):
        notes.append(f"* collapsed: fewer than {percent(config.min_parse_rate)} of the answers have the required form.")
    return notes
