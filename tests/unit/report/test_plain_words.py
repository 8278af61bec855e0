"""Where a run's verdict is read, and that it is believed only for the models that it is about."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_lib.checks.status import store_status
from pipeline_lib.errors import StoreError
from pipeline_lib.methods.evo_quality.chosen import chosen_round
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.page import Page, render_page
from pipeline_lib.report.verdict import (
    FILE,
    Best,
    Point,
    Verdict,
    beyond_chance,
    verdict_line,
    verdict_markdown,
    verdict_of_run,
    verdict_text,
    write_verdict,
)
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.use.trained import chosen_model

BEST = Best(iteration=1, kind="score", rule="the highest figure on validation", value=0.5)
VERDICT = Verdict(
    answer="no",
    points=(Point(question="Is it of use?", answer="No.", reasons=("Run `x` <b>now</b>.",)),),
    next_steps=("Give more images.",),
    best=BEST,
    warnings=("it is of no use",),
)


def measured(run: RunFolder, role: str, key: str) -> ArtifactRef:
    with run.store.attempt() as attempt:
        attempt.write_table(METRICS, pa.Table.from_pylist([], schema=METRICS.schema))
        run.store.publish(f"steps/evaluate/{key}", attempt, {})
    return run.keep(role, ArtifactRef(stage="evaluate", key=key))


def reported(run: RunFolder, *models: ArtifactRef, verdict: Verdict | None = VERDICT, key: str = "r") -> ArtifactRef:
    with run.store.attempt() as attempt:
        if verdict:
            write_verdict(verdict, attempt.folder)
        (attempt.folder / "report.html").write_text("page")
        arguments = {"models": [{"predictions": model.model_dump()} for model in models]}
        run.store.publish(f"steps/report/{key}", attempt, arguments)
    return run.keep("report", ArtifactRef(stage="report", key=key))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a base and models of two iterations, whose best is the first."""
    run = RunFolder(ArtifactStore(str(tmp_path)), "one", {"seed": 1}, ArtifactRef(stage="discretize", key="k"))
    run.begin()
    return run


@pytest.fixture
def models(run: RunFolder) -> list[ArtifactRef]:
    roles = ("iteration-00/zero-shot", "iteration-01/score", "iteration-02/merged")
    return [measured(run, f"{role}/predictions", f"m{at}") for at, role in enumerate(roles)]


def test_chance_and_use() -> None:
    answers = [beyond_chance(Estimate(0.1, low, high, 9)) for low, high in ((0.01, 0.3), (-0.1, 0.19), (-0.1, 0.3))]
    assert answers == ["yes", "no", "not shown"]
    assert beyond_chance(Estimate(0.9, float("nan"), float("nan"), 9)) == "not shown"
    assert beyond_chance(Estimate(0.9, 0.8, 0.95, 9), alike=True) == "no"


def test_a_verdict_is_read_from_the_report_of_these_models(run: RunFolder, models: list[ArtifactRef]) -> None:
    assert verdict_of_run(run) is None
    reported(run, *models)
    assert verdict_of_run(run) == VERDICT
    measured(run, "iteration-02/merged/predictions", "other")  # computed anew since
    assert verdict_of_run(run) is None


def test_a_report_of_an_earlier_version_or_a_damaged_verdict_is_none(run: RunFolder, models: list[ArtifactRef]) -> None:
    reported(run, *models, verdict=None, key="old")
    assert verdict_of_run(run) is None
    ref = reported(run, *models)
    (path,) = Path(run.store.path(ref.address)).glob(f"*/{FILE}")
    path.write_text(path.read_text().replace('"no"', '"ya"'))  # of equal size
    assert verdict_of_run(run) is None


def test_the_best_model_is_used_unless_another_is_asked_for(run: RunFolder, models: list[ArtifactRef]) -> None:
    newest = chosen_model(run)
    assert newest.model.name == "ite-2 merged" and "no verdict yet" in newest.why and newest.warnings == ()
    reported(run, *models)
    best = chosen_model(run)
    assert best.model.name == "ite-1 score" and BEST.rule in best.why and best.warnings == VERDICT.warnings
    assert chosen_model(run, iteration=2).model.name == "ite-2 merged"
    asked = chosen_model(run, kind="merged")
    assert asked.model.name == "ite-2 merged" and asked.why == "asked for by kind merged"
    with pytest.raises(StoreError, match="it has ite-1 score, ite-2 merged"):
        chosen_model(run, iteration=7)


def test_a_base_can_be_the_best(run: RunFolder, models: list[ArtifactRef]) -> None:
    base = BEST.model_copy(update={"iteration": 0, "kind": "zero-shot"})
    reported(run, *models, verdict=VERDICT.model_copy(update={"best": base}))
    assert chosen_model(run).model.name == "zero-shot"
    assert chosen_round(run, None).adapter is None


def test_evo_quality_takes_the_best_round_or_the_last(run: RunFolder, models: list[ArtifactRef]) -> None:
    first = run.keep("iteration-01/ranking/adapter", ArtifactRef(stage="train_ranking", key="a1"))
    last = run.keep("model", ArtifactRef(stage="train_ranking", key="a2"))
    chosen = chosen_round(run, None)
    assert chosen.adapter == last and "is missing" in chosen.why
    reported(run, *models, verdict=VERDICT.model_copy(update={"best": None}), key="unlabelled")
    chosen = chosen_round(run, None)
    assert chosen.adapter == last and "needs labels" in chosen.why and chosen.warnings == VERDICT.warnings
    best = BEST.model_copy(update={"kind": "ranking"})
    reported(run, *models, verdict=VERDICT.model_copy(update={"best": best}))
    assert chosen_round(run, None).adapter == first and chosen_round(run, None).name == "ite-1 ranking"
    assert chosen_round(run, 1).why == "asked for by iteration"
    with pytest.raises(StoreError, match="iteration-05"):
        chosen_round(run, 5)


def test_status_has_a_line_or_all_of_it(run: RunFolder, models: list[ArtifactRef]) -> None:
    assert "Is it of use?" not in store_status(run.store)
    reported(run, *models)
    line = "  Is it of use? No. Best model: ite-1 score."
    assert line in store_status(run.store).splitlines() and "Give more" not in store_status(run.store)
    assert "    Give more images." in store_status(run.store, ["one"]).splitlines()


def test_the_same_words_everywhere() -> None:
    assert verdict_text(VERDICT).splitlines() == [
        "Is it of use? No.", "  Run `x` <b>now</b>.", "What to do next?", "  Give more images."
    ]  # fmt: skip
    assert verdict_markdown(VERDICT).startswith(
        "**Is it of use? No.**\n\n- Run `x` <b>now</b>.\n\n**What to do next?**"
    )
    assert verdict_line(VERDICT) == "Is it of use? No. Best model: ite-1 score."
    page = render_page(Page("t", "toy", "lead", [], VERDICT))
    assert "Run <code>x</code> &lt;b&gt;now&lt;/b&gt;." in page and 'class="answer no"' in page
    assert "answers" not in render_page(Page("t", "toy", "lead", [])).partition("</style>")[2]
