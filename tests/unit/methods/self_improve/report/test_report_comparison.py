"""Experiments as text and as a page, from made-up figures."""

import math
import re

import pyarrow as pa
import pytest
import yaml

from pipeline_lib.methods.self_improve.recipe import Merge, SelfImproveRecipe, Training
from pipeline_lib.methods.self_improve.report.experiments import (
    Result,
    ablation_comparison,
    choose,
    grid_comparison,
    merge_comparison,
    tied,
)
from pipeline_lib.methods.self_improve.report.names import cell_name, merge_name
from pipeline_lib.report.comparison import comparison_text, render_comparison
from pipeline_lib.report.formatting import SRCC_UNFITTED
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.tables.table import conform

RECIPE = SelfImproveRecipe.model_validate(
    {"name": "ours", "data": {"table": "t.csv"}, "model": {"id": "bundled"}, "evaluation": {"min_parse_rate": 0.5}}
)


def metrics(split: str, **figures: float) -> pa.Table:
    rows = [
        {"split": split, "metric": name, "value": value, "low": value - 0.05, "high": value + 0.05, "rows": 90}
        for name, value in figures.items()
    ]
    return conform(pa.Table.from_pylist(rows), METRICS.schema)


def cell(rate: float, srcc: float, parse_rate: float = 0.9) -> Result:
    training = Training(learning_rate=rate, beta=0.2, lora_rank=8)
    figures = metrics("val", srcc_unfitted=srcc, plcc_unfitted=srcc - 0.1, parse_rate=parse_rate)
    return Result(cell_name(training), [figures], training)


GRID = [cell(1e-5, 0.40), cell(5e-5, 0.62), cell(1e-4, 0.60), cell(3e-4, 0.90, parse_rate=0.2), cell(1e-3, math.nan)]


def test_the_best_cell_that_has_not_collapsed_is_chosen_and_its_neighbours_are_named() -> None:
    grid = grid_comparison(RECIPE, GRID)
    assert [row.name.split(" · ")[0] for row in grid.rows] == [
        "lr 0.0003",
        "lr 5e-5",
        "lr 0.0001",
        "lr 1e-5",
        "lr 0.001",
    ]
    assert [row.mark for row in grid.rows] == ["", "chosen", "within its interval", "", ""]
    assert [row.leads for row in grid.rows] == [False, True, False, False, False]
    assert "SRCC unfitted .620 on validation" in grid.outcome and "1 of the 4 other cells" in grid.outcome
    pasted = yaml.safe_load(grid.recipe_lines)
    assert SelfImproveRecipe.model_validate(RECIPE.model_dump() | pasted).training.learning_rate == 5e-5
    assert pasted["training"] == {"learning_rate": 5e-5, "beta": 0.2, "lora_rank": 8}


def test_the_metric_of_the_recipe_decides() -> None:
    one, two = cell(1e-5, 0.5), cell(5e-5, 0.5)
    better = metrics("val", srcc_unfitted=0.4, plcc_unfitted=0.7, parse_rate=1.0)
    results = [one, two._replace(metrics=[better])]
    by_plcc = RECIPE.model_copy(
        update={"grid_search": RECIPE.grid_search.model_copy(update={"metric": "plcc_unfitted"})}
    )
    assert grid_comparison(RECIPE, results).rows[0].name == one.name
    assert grid_comparison(by_plcc, results).rows[0].name == two.name
    assert "PLCC unfitted .700" in grid_comparison(by_plcc, results).outcome


def test_nothing_is_chosen_where_every_cell_has_collapsed() -> None:
    grid = grid_comparison(RECIPE, [cell(1e-5, 0.4, parse_rate=0.1), cell(5e-5, math.nan)])
    assert grid.outcome.startswith("No cell can be chosen") and not grid.recipe_lines
    assert choose(grid.rows, SRCC_UNFITTED) is None
    assert "No cell can be chosen" in render_comparison(grid)


def test_figures_on_test_are_not_looked_at_in_a_grid() -> None:
    tempting = cell(1e-5, 0.4)._replace(
        metrics=[metrics("val", srcc_unfitted=0.4, parse_rate=1.0), metrics("test", srcc_unfitted=0.99)]
    )
    grid = grid_comparison(RECIPE, [tempting, cell(5e-5, 0.5)])
    assert grid.rows[0].mark == "chosen" and "lr 5e-5" in grid.rows[0].name
    assert tied(grid.rows, 0, SRCC_UNFITTED) == [0]
    assert ".99" not in comparison_text(grid)


def table_3() -> list[Result]:
    def row(name: str, srcc: float, cons: float, parse_rate: float = 1.0) -> Result:
        figures = metrics("test", srcc_stated=srcc - 0.01, srcc_fitted=srcc, parse_rate=parse_rate)
        return Result(name, [figures, metrics("test", cons=cons)])

    return [
        row("zero-shot", 0.31, 2.9),
        row("sft_score", 0.66, math.nan, parse_rate=0.0),
        row("dpo", -0.04, 2.95),
        row("iterative_dpo", 0.65, 3.31),
    ]


def test_table_3_as_text() -> None:
    text = comparison_text(ablation_comparison(RECIPE, table_3()))
    lines = text.splitlines()
    assert lines[0] == "Table 3 of this run (ours)"
    assert lines[2].split() == [
        "SRCC",
        "stated",
        "SRCC",
        "unfitted",
        "PLCC",
        "fitted",
        "SRCC",
        "fitted",
        "Cons",
        "Parse",
        "rate",
    ]
    assert [line[:13].rstrip() for line in lines[4:8]] == ["zero-shot", "SFT score *", "DPO", "iterative DPO"]
    assert ".650 [.60 .70]" in lines[7] and "3.31 [3.26 3.36]" in lines[7]
    assert "–" in lines[5] and "* collapsed: fewer than 50 %" in text
    assert "round-trip judge" in text
    named = {"judge": RECIPE.judge.model_copy(update={"openai": RECIPE.judge.openai.model_copy(update={"model": "m"})})}
    assert "m rates Cons" in comparison_text(ablation_comparison(RECIPE.model_copy(update=named), table_3()))


def test_merges_say_which_are_the_papers_and_the_recipes() -> None:
    mine = Merge(space="delta", density=0.3)
    recipe = RECIPE.model_copy(update={"merge": mine})

    def row(name: str, merge: Merge | None = None) -> Result:
        return Result(name, [metrics("val", srcc_unfitted=0.5, plcc_unfitted=0.5, parse_rate=1.0, cons=3)], None, merge)

    merges = [Merge(), mine, Merge(method="linear", weights=(0.5, 0.5)), Merge(method="dare_ties")]
    found = merge_comparison(
        recipe, [row("score adapter"), row("consistency adapter"), *(row(merge_name(merge), merge) for merge in merges)]
    )
    assert [(entry.name, entry.mark) for entry in found.rows] == [
        ("score adapter", ""),
        ("consistency adapter", ""),
        ("ties · factors · (1, 1) · density 0.5 · frequency", "the paper’s"),
        ("ties · delta · (1, 1) · density 0.3 · frequency", "this recipe’s"),
        ("linear · factors · (0.5, 0.5)", ""),
        ("dare ties · factors · (1, 1) · density 0.5 · frequency", ""),
    ]
    assert "merged in 4 ways" in found.lead[0]
    assert [entry.apart for entry in found.rows] == [True, True, False, False, False, False]


@pytest.mark.parametrize("kind", ["ablation", "grid"])
def test_the_page_needs_nothing_but_itself_and_is_the_same_each_time(kind: str) -> None:
    made = ablation_comparison(RECIPE, table_3()) if kind == "ablation" else grid_comparison(RECIPE, GRID)
    page = render_comparison(made)
    assert page == render_comparison(made)
    addresses = set(re.findall(r'(?:href|src|url)\s*[=(]\s*["\']?(?!#)([^"\')\s>]+)', page))
    assert not {address for address in addresses if not address.startswith("http://www.w3.org")}
    assert page.count("<svg") == (2 if kind == "ablation" else 1)
    assert "−.040" in page if kind == "ablation" else "learning_rate: 5.0e-05" in page
    for row in made.rows:
        assert page.count(row.name.replace("&", "&amp;")) >= 2  # in the table and in the drawing


def test_what_people_wrote_is_escaped() -> None:
    results = [result._replace(name=f"<script>{result.name}") for result in table_3()]
    assert "<script>" not in render_comparison(ablation_comparison(RECIPE, results))
