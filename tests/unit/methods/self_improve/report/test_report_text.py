from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.text import results_table


def test_figures_are_those_of_the_metrics(run: RunResults) -> None:
    table = results_table(run)
    lines = {line.split("  ")[0].removesuffix(" *"): line for line in table.splitlines()}
    for model in run.models:
        for metric in ("plcc_fitted", "srcc_fitted", "rmse_fitted", "srcc_unfitted", "parse_rate"):
            assert f"{model.metric(metric).value:.3f}".replace("0.", ".", 1) in lines[model.name], (model.name, metric)
        assert f"{model.metric('cons').value:.2f}" in lines[model.name]


def test_collapse_judge_and_interval_are_named(run: RunResults) -> None:
    table = results_table(run)
    assert "ite-2 consistency *" in table and table.count(" * ") == 1
    parsed = sum(row["parsed"] for row in run.models[3].predictions.to_pylist() if row["split"] == "test")
    assert f"* ite-2 consistency collapsed: {60 - parsed} of 60 test texts did not parse" in table
    assert "local round-trip judge" in table and "95 % percentile bootstrap" in table


def test_columns_line_up_and_fit_a_terminal(run: RunResults) -> None:
    head, rule, *rows = results_table(run).split("\n\n")[0].splitlines()
    assert len(rule) <= 132
    for heading in ("PLCC", "Cons", "Parse rate"):
        at = head.index(heading)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)
