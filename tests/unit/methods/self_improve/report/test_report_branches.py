"""A run whose branches were evaluated on validation alone (`evaluation.branches: val`)."""

from collections.abc import Callable

import pyarrow.compute as pc
import pytest
from PIL import Image

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.lineage import is_on_main_line
from pipeline_lib.methods.self_improve.report.page import render_report
from pipeline_lib.methods.self_improve.report.text import results_table

OpenImage = Callable[[str, str], Image.Image]


def on_validation_alone(model: ModelResults) -> ModelResults:
    """The model as if nobody had asked it about a test image."""
    predictions, metrics, verdicts, judged = (
        table.filter(pc.equal(table["split"], "val"))
        for table in (model.predictions, model.metrics, model.judged.verdicts, model.judged.metrics)
    )
    return model._replace(predictions=predictions, metrics=metrics, judged=model.judged._replace(
        verdicts=verdicts, metrics=judged
    ))  # fmt: skip


@pytest.fixture
def untested(run: RunResults) -> RunResults:
    return run._replace(
        models=[model for model in run.models if is_on_main_line(model)],
        branches=[on_validation_alone(model) for model in run.models if not is_on_main_line(model)],
    )


def test_branches_have_a_table_of_their_own_on_validation(untested: RunResults) -> None:
    tested, validated, notes = results_table(untested).split("\n\n")
    assert [line.split("  ")[0] for line in tested.splitlines()[2:]] == [model.name for model in untested.models]
    lines = {line.split("  ")[0]: line for line in validated.splitlines()[2:]}
    kinds = ("score", "consistency", "merged")
    assert list(lines) == [f"ite-{iteration} {kind}" for iteration in (2, 3) for kind in kinds]
    for model in untested.all_models:
        if model.name in lines:
            assert f"{model.metric('srcc_unfitted', 'val').value:.3f}".replace("0.", ".", 1) in lines[model.name]
    assert "evaluation.branches: val" in notes.replace("\n", " ")


def test_the_page_shows_them_once_and_keeps_their_training(
    run: RunResults, untested: RunResults, open_image: OpenImage
) -> None:
    page = render_report(untested, open_image)
    assert page.count('id="table-branches"') == 1 and "Every tested model" in page and "Hollow marks" not in page
    assert ">ite-2 consistency<span" in page and "none of this run is" not in page  # it has collapsed
    assert page.count("Reward margin, consistency") == render_report(run, open_image).count(
        "Reward margin, consistency"
    )
    assert 'id="table-branches"' not in render_report(run, open_image)
