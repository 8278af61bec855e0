import pytest
from report_run import metric_replaced

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.verdict import verdict

NAN = float("nan")


def test_a_good_run_is_called_good(run: RunResults) -> None:
    conclusion, first, last, base, *rest = verdict(run)
    assert (
        conclusion == "By unfitted SRCC, self-training improved scoring,"
        " and the final model lost neither ite-1’s SRCC nor its Cons."
    )
    assert "raised unfitted SRCC" in first and "do not overlap" in first
    assert "kept unfitted SRCC" in last and "raised Cons" in last
    assert "zero-shot, ite-3 merged " in base and " Cons " in base and "its parse rate" in base
    assert len(rest) == 1 and rest[0].startswith("ite-2 consistency collapsed: ")


@pytest.mark.parametrize(
    ("model", "metric", "estimate", "conclusion"),
    [
        (
            "ite-1 score",
            "srcc_unfitted",
            (0.2, 0.0, 0.4),
            "intervals overlap",
        ),
        ("ite-1 score", "srcc_unfitted", (0.1, 0.0, 0.2), "not show a gain"),
        ("ite-1 score", "srcc_unfitted", (NAN, NAN, NAN), "not show a gain"),
        ("ite-3 merged", "srcc_unfitted", (0.5, 0.4, 0.6), "not keep ite-1’s SRCC."),
        ("ite-3 merged", "cons", (1.0, 0.9, 1.1), "not keep ite-1’s Cons."),
        ("ite-3 merged", "parse_rate", (0.2, 0.1, 0.3), "ite-3 merged, collapsed"),
    ],
)
def test_the_conclusion_follows_the_figures(
    run: RunResults, model: str, metric: str, estimate: tuple[float, float, float], conclusion: str
) -> None:
    assert conclusion in verdict(metric_replaced(run, model, metric, estimate))[0]


def test_overlap_and_undefined_figures_are_said(run: RunResults) -> None:
    overlapping = verdict(metric_replaced(run, "ite-1 score", "srcc_unfitted", (0.2, 0.0, 0.4)))
    assert overlapping[1].endswith("intervals overlap.")
    undefined = verdict(metric_replaced(run, "zero-shot", "srcc_unfitted", (NAN, NAN, NAN)))
    assert "cannot be compared" in undefined[1]


def test_a_wide_interval_does_not_pass_for_keeping(run: RunResults) -> None:
    lower = metric_replaced(run, "ite-3 merged", "srcc_unfitted", (0.7, 0.4, 0.95))
    assert "moved unfitted SRCC below the earlier interval" in verdict(lower)[2]


def test_one_iteration_has_no_second_comparison(run: RunResults) -> None:
    sentences = verdict(run._replace(models=run.models[:2]))
    assert len(sentences) == 3 and sentences[0] == "By unfitted SRCC, self-training improved scoring."
    assert verdict(run._replace(models=run.models[:1])) == ["Nothing was trained in this run."]
