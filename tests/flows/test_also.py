"""`evaluation.also`: base and final model on other labelled data, nothing fitted on it."""

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import RecipeError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import read_run


def test_models_are_measured_on_other_data(again, finished, run_flow, tmp_path):
    store = again.runtime.store
    rows = pd.read_csv(again.data.table)
    rows["score"] = 100 - 7 * rows["score"]  # another scale, the other way round
    folder = tmp_path / "other"
    folder.mkdir()
    rows.to_csv(folder / "other.csv", index=False)
    images = again.data.images or str(Path(again.data.table).parent)
    also = [{"name": "turned", "table": str(folder / "other.csv"), "images": images}]
    fields = {"runtime.store": store, "evaluation.also": also}
    recipe = load_recipe(finished[0] / "small.yaml", fields)
    watched = run_flow(recipe)
    new = {label for label in watched.computed if "evaluate_also" in label or "list_images" in label}
    assert set(watched.computed) == new | {"report"} and len(new) == 3
    found = ArtifactStore(store)
    run = read_run(found, "small")
    other = run.find("also/turned/iteration-02")
    predictions = found.read_table(other.address, "other_predictions")
    metrics = {row["metric"]: row["value"] for row in found.read_table(other.address, "metrics").to_pylist()}
    assert predictions.num_rows == len(rows) == found.read_table(run.find("images").address, "images").num_rows
    srcc = stats.spearmanr(predictions["score"].to_numpy(), predictions["predicted"].to_numpy()).statistic
    assert metrics["srcc_unfitted"] == pytest.approx(srcc)
    evaluated = found.read_table(run.find("iteration-02/merged/predictions").address, "predictions").to_pylist()
    before = {row["image"]: row for row in evaluated}
    for row in predictions.to_pylist():
        if row["image"] in before:  # what is predicted does not depend on the other scores
            assert row["predicted"] == pytest.approx(before[row["image"]]["predicted_unfitted"], abs=1e-4)
            assert row["score"] == pytest.approx(100 - 7 * before[row["image"]]["score"])
    page = found.files.read(found.path("runs/small/report/report.html")).decode()
    assert "On turned, ite-2 merged" in page
    assert not run_flow(recipe).computed


def test_names_of_other_data_are_distinct(finished):
    also = [{"name": "a", "table": "a.csv"}] * 2
    with pytest.raises(RecipeError, match="a name of its own"):
        load_recipe(finished[0] / "small.yaml", {"evaluation.also": also})
