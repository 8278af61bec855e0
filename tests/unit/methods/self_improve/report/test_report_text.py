import pyarrow as pa

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.text import results_table


def test_figures_are_those_of_the_metrics(run: RunResults) -> None:
    table = results_table(run)
    lines = {line.split("  ")[0].removesuffix(" *"): line for line in table.splitlines()}
    for model in run.models:
        for metric in (
            "srcc_stated",
            "srcc_monotone",
            "srcc_fitted",
            "cons_corrected",
            "parse_rate",
        ):
            assert f"{model.metric(metric).value:.3f}".replace("0.", ".", 1) in lines[model.name], (model.name, metric)
        assert f"{model.metric('cons').value:.2f}" in lines[model.name]


def test_collapse_judge_and_interval_are_named(run: RunResults) -> None:
    table = results_table(run)
    assert "ite-2 consistency *" in table and table.count(" * ") == 1
    parsed = sum(row["parsed"] for row in run.models[3].predictions.to_pylist() if row["split"] == "test")
    assert f"* ite-2 consistency collapsed: {60 - parsed} of 60 test texts did not parse" in table
    assert "local round-trip judge" in table and "95 % bootstrap over groups" in table


def test_columns_line_up_and_fit_a_terminal(run: RunResults) -> None:
    head, rule, *rows = results_table(run).split("\n\n")[0].splitlines()
    assert len(rule) <= 132
    for heading in ("SRCC stated", "Cons", "Parse rate"):
        at = head.index(heading)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)


def test_pairs_that_training_left_out_are_counted(run: RunResults) -> None:
    assert "pairs were" not in results_table(run)  # of this run they are not known

    def counted(empty: float, equal: float) -> pa.Table:
        shares = {"empty_share": empty, "equal_share": equal}
        return pa.Table.from_pylist(
            [{"split": "train", "metric": name, "value": value, "low": 0.0, "high": 0.0, "rows": 600}
             for name, value in shares.items()]
        )  # fmt: skip

    of_kind = {"score": counted(0.0, 0.0), "consistency": counted(3 / 600, 40 / 600)}
    models = [model._replace(pair_metrics=of_kind.get(model.kind)) for model in run.models]
    text = results_table(run._replace(models=models))
    assert "ite-1 score: all 600 pairs were used." in text
    both = "40 because both answers are equal and 3 because an explanation is empty."
    assert f"ite-2 consistency: 43 of 600 pairs were left out, {both}" in text
    of_kind = {"consistency": counted(0.0, 9 / 600)}
    text = results_table(
        run._replace(models=[model._replace(pair_metrics=of_kind.get(model.kind)) for model in run.models])
    )
    assert "ite-2 consistency: 9 of 600 pairs were left out because both answers are equal." in text
