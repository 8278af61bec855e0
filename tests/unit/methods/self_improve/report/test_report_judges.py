"""A run with two judges, a faithfulness probe and a criterion of its own, on the page, the card and the table."""

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from report_run import invented_run
from test_report_html import Page

from pipeline_lib.methods.self_improve.report.contents import Judged, ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.faithfulness_figures import faithfulness_figures
from pipeline_lib.methods.self_improve.report.judges import (
    judge_pairs,
    judged_columns,
    lead_judge,
    unscored,
    who_judged,
)
from pipeline_lib.methods.self_improve.report.model_card import model_card
from pipeline_lib.methods.self_improve.report.page import render_report
from pipeline_lib.methods.self_improve.report.text import results_table

GPT = "gpt-4o-2024-08-06"


@pytest.fixture(scope="module")
def html(judged_run: RunResults, open_image: Callable[[str, str], Image.Image]) -> str:
    return render_report(judged_run, open_image)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def with_judge(run: RunResults, model: str, rubric: str = "paper") -> RunResults:
    openai = run.recipe.judge.openai.model_copy(update={"model": model, "rubric": rubric})
    judge = run.recipe.judge.model_copy(update={"openai": openai})
    return run._replace(recipe=run.recipe.model_copy(update={"judge": judge}))


def table_rows(html: str, label: str) -> list[list[str]]:
    """The figures of each body row of a table, without intervals."""
    body = html.partition(f'aria-labelledby="{label}">\n    <thead')[2].partition("</table>")[0].replace("−", "-")
    return [re.findall(r'class="value">([^<]*)<', row) for row in body.split("<tr") if 'scope="row"' in row]


def verdicts_on_test(model: ModelResults) -> list[dict[str, Any]]:
    return [row for row in model.judged.verdicts.to_pylist() if row["split"] == "test"]


def cons(judged: Judged | None) -> float:
    assert judged is not None
    return next(r["value"] for r in judged.metrics.to_pylist() if (r["metric"], r["split"]) == ("cons", "test"))


def test_the_judge_model_leads_where_the_recipe_names_one(run: RunResults, judged_run: RunResults, html: str) -> None:
    assert lead_judge(run) == "the local round-trip judge" and lead_judge(judged_run) == GPT
    assert [column.heading for column in judged_columns(run)] == ["Cons"]
    assert [column.heading for column in judged_columns(judged_run)] == ["Cons", "Use", "Gen"]
    last = judged_run.models[-1]
    shown = table_rows(html, "table-1")[-1]
    assert len(shown) == 13 and float(shown[9]) == pytest.approx(last.metric("cons").value, abs=5.1e-3)
    assert cons(last.second) != last.metric("cons").value
    assert float(shown[10]) == pytest.approx(last.metric("use").value, abs=5.1e-3)


def test_only_the_papers_judge_with_its_rubric_may_be_held_against_the_paper(
    run: RunResults, judged_run: RunResults, page: Page
) -> None:
    texts = (page.text, model_card(judged_run), results_table(judged_run))
    for text in texts:
        assert who_judged(judged_run) in text
    assert GPT in who_judged(judged_run) and "not compare" not in who_judged(judged_run)
    for other in (with_judge(judged_run, "llama"), with_judge(judged_run, GPT, rubric="strict"), run):
        assert "not compare" in who_judged(other)
        assert who_judged(other) in model_card(other) and who_judged(other) in results_table(other)


def test_agreement_of_the_judges_is_shown_for_each_model_and_for_all(
    run: RunResults, judged_run: RunResults, html: str, page: Page
) -> None:
    assert judge_pairs(run) == [] and "Do the judges agree?" in page.text
    pairs, rows = judge_pairs(judged_run), table_rows(html, "table-judges")
    assert [pair.name for pair in pairs] == [*(model.name for model in judged_run.models), "all models"]
    assert len(rows) == len(pairs)
    for pair, shown in zip(pairs[:-1], rows[:-1], strict=True):
        model = next(model for model in judged_run.models if model.name == pair.name)
        scored = sum(row["consistency"] is not None for row in verdicts_on_test(model))
        figures = [model.metric("cons").value, cons(model.second), pair.agreement.spearman.value]
        assert [float(value) for value in shown[:3]] == pytest.approx(figures, abs=5.1e-3)
        assert int(shown[-1]) == scored
    assert pairs[-1].agreement.rows == sum(pair.agreement.rows for pair in pairs[:-1])
    assert f"the round-trip judge on {pairs[-1].agreement.rows} explanations" in results_table(judged_run)


def test_verdicts_that_never_came_are_counted(run: RunResults, judged_run: RunResults, page: Page) -> None:
    assert unscored(run) == ""
    for model in judged_run.models:
        statuses = [row["status"] for row in verdicts_on_test(model)]
        missing = statuses.count("refused") + statuses.count("malformed")
        told = f"{model.name} {missing} of {len(statuses) - statuses.count('unparsed')} ("
        assert (told in unscored(judged_run)) == bool(missing)
    base = judged_run.models[0]
    rows = [row | {"status": row["status"].replace("refused", "malformed")} for row in base.judged.verdicts.to_pylist()]
    verdicts = pa.Table.from_pylist(rows, schema=base.judged.verdicts.schema)
    malformed = base._replace(judged=base.judged._replace(verdicts=verdicts))
    assert "malformed)" in unscored(judged_run._replace(models=[malformed]))
    for text in (page.text, model_card(judged_run), results_table(judged_run)):
        assert unscored(judged_run) in text


def test_a_model_whose_every_text_was_refused_leaves_a_dash(judged_run: RunResults) -> None:
    base = judged_run.models[0]
    names = base.judged.metrics["metric"].to_pylist()
    metrics = base.judged.metrics.filter(pa.array([name not in ("use", "gen") for name in names]))
    refused = base._replace(judged=base.judged._replace(metrics=metrics))
    card = model_card(judged_run._replace(models=[refused, *judged_run.models[1:]]))
    assert next(line for line in card.splitlines() if line.startswith("| Use")).startswith("| Use, 0 to 4 | – |")


def test_the_gallery_shows_both_grades_and_what_was_refused(page: Page, html: str) -> None:
    assert re.search(r"grade <b>\d</b> \w+ · round-trip <b>\d</b> \(text reads as bin \d\.\d\)", html)


def test_faithfulness_is_shown_with_what_it_can_and_cannot_show(judged_run: RunResults, html: str, page: Page) -> None:
    rows = table_rows(html, "table-faithfulness")
    names = ["recovered_spearman", "recovered_mae", "text_change", "text_change_baseline", "same_text_rate"]
    names += ["score_change", "srcc_from_image", "srcc_from_text", "image_text_gap"]
    names += ["mentions_own_score", "mentions_other_score"]
    for model, shown in zip(judged_run.models, rows, strict=True):
        values = [float(value) for value in shown]
        assert values[:-1] == pytest.approx([model.metric(name).value for name in names], abs=5.1e-3)
        assert values[-1] == model.metric("text_change").rows
    section = html.partition('<section id="faithfulness">')[2].partition("</section>")[0]
    assert section.count("<svg xmlns") == 3 and section.lower().count("cannot show") == 3
    assert re.search(r"\| Text change, one score, other image \| \.\d\d", model_card(judged_run))
    assert "Score from text" in results_table(judged_run)


def test_nothing_is_said_of_what_was_not_measured(
    run: RunResults, open_image: Callable[[str, str], Image.Image]
) -> None:
    html = render_report(run._replace(models=run.models[:2]), open_image)
    for word in ("Text change", "table-faithfulness", "table-judges", "<h2>Do the", "#judges", "#faithfulness"):
        assert word not in html
    for text in (model_card(run), results_table(run)):
        assert "Text change" not in text and "kappa" not in text


def test_a_collapsed_model_does_not_spoil_the_figures(judged_run: RunResults) -> None:
    """Without any parsed answer its faithfulness is NaN: it is left out of the lines."""
    nan = float("nan")
    last = judged_run.models[-1]
    rows = last.metrics.to_pylist()
    for row in rows:
        if row["metric"] in ("text_change", "recovered_spearman", "mentions_own_score"):
            row |= {"value": nan, "low": nan, "high": nan, "rows": 0}
    gone = last._replace(metrics=pa.Table.from_pylist(rows, schema=last.metrics.schema))
    figures = faithfulness_figures(judged_run._replace(models=[*judged_run.models[:-1], gone]))
    assert len(figures) == 3 and not any("nan" in figure.lower() for figure in figures)


def test_another_criterion_reaches_page_card_and_table(judged_run: RunResults, html: str, page: Page) -> None:
    assert "<title>invented: build quality of garden gnomes · WhyScore report</title>" in html
    assert "to state the gnome score of an image" in page.text and "prompt “gnomes”" in page.text
    card, table = model_card(judged_run), results_table(judged_run)
    assert "that states the gnome score of an image" in card and "Rate the gnome." in card
    assert "gnome score" in table
    for text in (page.text, card, table):
        assert "aesthetic score" not in text and "aesthetic value" not in text
    assert "aesthetic score" in results_table(invented_run(steps=3))


def test_tables_and_figures_are_numbered_in_order(html: str) -> None:
    for kind in ("Table", "Figure"):
        numbers = re.findall(rf"<b>{kind} (\d)\.</b>", html)
        assert numbers == [str(at) for at in range(1, len(numbers) + 1)] and len(numbers) > 5


def test_both_tables_for_the_terminal_line_up(judged_run: RunResults) -> None:
    first, second, _ = results_table(judged_run).split("\n\n")
    for table in (first, second):
        head, rule, *rows = table.splitlines()
        assert len(rule) <= 132 and len(rows) == len(judged_run.models)
        for at in (match.start() for match in re.finditer(r"(?<=  )\S", head)):
            assert all(row[at - 1] == " " and row[at] != " " for row in rows)
