import pytest
from report_run import difference_replaced, metric_replaced

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.control_figures import control_figures
from pipeline_lib.methods.self_improve.report.verdict import verdict

NAN = float("nan")
FALL, NOTHING = (-0.2, -0.3, -0.1), (0.1, -0.1, 0.3)


def test_a_good_run_is_called_good(run: RunResults) -> None:
    conclusion, gain, texts, last, *rest = verdict(run)
    assert conclusion == "Self-training raised SRCC on test, of the stated score and of the prediction."
    assert gain.startswith("Compared with zero-shot, ite-3 merged raised monotone SRCC (")
    assert "raised stated SRCC (" in gain and "lowered the stated MAE (" in gain and "difference -" in gain
    assert "corrected Cons" in texts and "the parse rate" in texts
    assert last.startswith("Compared with ite-1 score, ite-3 merged shows no difference of monotone SRCC (")
    assert "raised corrected Cons (" in last
    assert len(rest) == 1 and rest[0].startswith("ite-2 consistency collapsed: ")


@pytest.mark.parametrize(
    ("pair", "metrics", "value", "conclusion"),
    [
        (("zero-shot", "ite-3 merged"), ["srcc_stated", "srcc_monotone"], NOTHING, "showed no difference of SRCC"),
        (("zero-shot", "ite-3 merged"), ["srcc_stated", "srcc_monotone"], FALL, "Self-training lowered SRCC on test."),
        (("zero-shot", "ite-3 merged"), ["srcc_stated"], NOTHING, "of the prediction alone"),
        (("zero-shot", "ite-3 merged"), ["srcc_monotone"], NOTHING, "of the stated score alone"),
        (("zero-shot", "ite-3 merged"), ["srcc_monotone"], FALL, "readings of the score disagree"),
        (("ite-1 score", "ite-3 merged"), ["srcc_monotone"], FALL, "the final model lowered monotone SRCC."),
        (("ite-1 score", "ite-3 merged"), ["cons_corrected"], FALL, "the final model lowered corrected Cons."),
    ],
)
def test_the_conclusion_follows_the_differences(
    run: RunResults, pair: tuple[str, str], metrics: list[str], value: tuple[float, float, float], conclusion: str
) -> None:
    for metric in metrics:
        run = difference_replaced(run, *pair, metric, value)
    assert conclusion in verdict(run)[0]


def test_a_gain_that_the_control_has_too_does_not_count(run: RunResults) -> None:
    """The headline agrees with the section of the control."""
    bootstrap = run.recipe.evaluation.bootstrap
    for control, said in ((run.models[0], ", beyond its control."), (run.models[-1], "does not count.")):
        table = control_figures(run.models[0], run.models[-1], control, bootstrap, 0)
        assert verdict(run._replace(control=table))[0].endswith(said)
    assert "control" not in verdict(run)[0]


def test_a_collapsed_model_is_no_gain(run: RunResults) -> None:
    assert "ite-3 merged, collapsed" in verdict(metric_replaced(run, "ite-3 merged", "parse_rate", (0.2, 0.1, 0.3)))[0]


def test_undefined_figures_are_said(run: RunResults) -> None:
    undefined = difference_replaced(run, "zero-shot", "ite-3 merged", "srcc_monotone", (NAN, NAN, NAN))
    assert "has no comparable monotone SRCC" in verdict(undefined)[1]


def test_few_groups_are_said(run: RunResults) -> None:
    assert not any("too narrow" in sentence for sentence in verdict(run))
    models = []
    for model in run.models:
        table = model.predictions
        at = table.column_names.index("group")
        groups = [f"g{n % 4}" for n in range(table.num_rows)]
        models.append(model._replace(predictions=table.set_column(at, table.schema.field("group"), [groups])))
    assert any("4 groups" in sentence and "too narrow" in sentence for sentence in verdict(run._replace(models=models)))


def test_one_iteration_has_no_second_comparison(run: RunResults) -> None:
    sentences = verdict(run._replace(models=run.models[:2]))
    assert len(sentences) == 3 and sentences[0].startswith("Self-training raised SRCC on test")
    assert verdict(run._replace(models=run.models[:1])) == ["Nothing was trained in this run."]
