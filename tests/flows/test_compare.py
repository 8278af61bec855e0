"""`whyscore compare`: runs beside each other, from their stores alone."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline_lib.config.load import load_recipe
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.metrics.scores import estimate_of
from pipeline_lib.report.comparison import comparison_text, render_comparison
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import RunFolder, read_run
from pipeline_lib.use.compare import Facts, compare_runs, costs, find_run, recipe_differences, value
from pipeline_lib.use.compare_page import comparison_of
from tests.small_run import watch_run
from whyscore.cli import app


@pytest.fixture(scope="module")
def store(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the small run, the same with another beta, and one iteration of it on other images."""
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(small_run / "store", folder / "store")
    changes = {"runtime.store": str(folder / "store"), "iterations": 1}
    watch_run(load_recipe(small_run / "small.yaml", {**changes, "name": "beta", "training.beta": 0.1}))  # type: ignore[arg-type]
    table = write_dataset(folder / "data", seed=9, train=40, val=24, test=16)
    watch_run(load_recipe(small_run / "small.yaml", {**changes, "name": "images", "data.table": str(table)}))  # type: ignore[arg-type]
    return folder / "store"


@pytest.fixture(scope="module")
def facts(store: Path) -> Facts:
    return compare_runs([run_of(store, name) for name in ("small", "beta", "images")])


def run_of(store: Path, name: str) -> RunFolder:
    run = read_run(ArtifactStore(str(store)), name)
    assert run is not None
    return run


def test_figures_are_those_of_the_runs_own_tables(facts: Facts) -> None:
    names = [figure.figure for figure in facts.figures]
    for side in facts.sides:
        ref = side.run.find(side.model.role("predictions"))
        assert ref is not None
        metrics = side.run.store.read_table(ref.address, "metrics")
        fitted = estimate_of(metrics, "srcc_monotone", "test")
        reading = "monotone" if fitted.rows and fitted.value == fitted.value else "unfitted"
        for figure, metric in (
            ("srcc", f"srcc_{reading}"),
            ("srcc_stated", "srcc_stated"),
            ("parse_rate", "parse_rate"),
        ):
            found = value(facts, side, side.model, names.index(figure))
            own = estimate_of(metrics, metric, "test")
            assert found.value == pytest.approx(own.value)
            assert found.rows == own.rows


def test_the_same_test_images_are_paired_and_others_are_not(facts: Facts) -> None:
    how = {(later, facts.figures[at].figure): found.how for (_, later, at), found in facts.differences.items()}
    assert how["B", "srcc"] == how["B", "mae"] == "paired"
    assert how["C", "srcc"] == "unpaired"
    judges = [side.run.find("judge") for side in facts.sides]
    assert judges[0] == judges[1]
    assert how["B", "cons"] == "paired"
    assert how["C", "cons"] == "not compared"  # graded by a judge that was fitted on other images


def test_what_differs_in_the_recipes_is_what_was_changed(facts: Facts) -> None:
    rows, alone = recipe_differences(facts.sides)
    found = dict(rows)
    assert set(found) == {"name", "iterations", "training.beta", "data.table"}
    assert found["training.beta"] == ["0.5", "0.1", "0.5"]
    assert alone == {"A": [], "B": [], "C": []}


def test_what_two_runs_share_was_paid_once(facts: Facts) -> None:
    first, beta, other = facts.sides
    shared = {cost.stage: cost.shared for cost in costs(beta, [first])}
    seconds = {cost.stage: cost.seconds for cost in costs(beta, [first])}
    assert shared["generate"] == seconds["generate"] > 0
    assert shared["train_score"] == 0
    assert sum(cost.shared for cost in costs(other, [first])) < sum(seconds.values())


def test_the_page_and_the_text_say_the_same(facts: Facts) -> None:
    compared = comparison_of(facts)
    text, page = comparison_text(compared), render_comparison(compared)
    assert page == render_comparison(comparison_of(facts))
    for said in ("unpaired", "not compared", "training.beta", "none of the images are the same", "C against A"):
        assert said in text
        assert said in page
    assert page.count("<svg") >= 6
    assert "nan" not in text.lower().split()
    rows = [row for row in compared.rows if not row.apart]
    assert [row.name[0] for row in rows] == ["A", "B", "C"]


def test_a_run_is_named_by_its_name_its_folder_or_its_recipe(small_run: Path, store: Path, tmp_path: Path) -> None:
    by_folder = find_run(f"{store}/runs/beta/", "nowhere")
    assert (by_folder.name, by_folder.store.root) == ("beta", str(store))
    by_recipe = find_run(str(small_run / "small.yaml"), "nowhere")
    assert (by_recipe.name, by_recipe.store.root) == ("small", str(small_run / "store"))
    changed = tmp_path / "changed.yaml"
    changed.write_text((small_run / "small.yaml").read_text().replace("beta: 0.5", "beta: 0.4"))
    with pytest.raises(RecipeError, match=r"training\.beta"):
        find_run(str(changed), "nowhere")
    with pytest.raises(StoreError, match="beta, images, small"):
        find_run("other", str(store))
    with pytest.raises(StoreError, match="no folder of a run"):
        find_run(str(store / "steps" / "evaluate"), str(store))


def test_one_run_or_the_same_run_is_refused(store: Path) -> None:
    run = run_of(store, "small")
    with pytest.raises(RecipeError, match="two or three"):
        compare_runs([run])
    with pytest.raises(RecipeError, match="twice"):
        compare_runs([run, run])


def test_runs_of_other_methods_are_compared_in_what_they_share(store: Path, small_stic: Path) -> None:
    stic = read_run(ArtifactStore(str(small_stic / "store")), "small-stic")
    assert stic is not None
    facts = compare_runs([run_of(store, "small"), stic])
    assert {found.how for found in facts.differences.values()} == {"not compared"}
    compared = comparison_of(facts)
    assert compared.outcome == "B and A have no figure that can be compared."
    text = comparison_text(compared)
    for said in ("B: not measured", "A: not measured", "different methods", "Accuracy direct", "its method has other"):
        assert said in text
    assert "<svg" in render_comparison(compared)


def test_a_method_that_does_not_tell_what_it_measured_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline_lib.use.compare.measured_of", lambda *_: [])
    compared = comparison_of(compare_runs([run_of(store, "small"), run_of(store, "beta")]))
    assert "does not tell what its models were measured on" in comparison_text(compared)
    assert "training.beta" in render_comparison(compared)


def test_the_command_writes_the_page_and_replaces_none(store: Path, tmp_path: Path) -> None:
    command = ["compare", "small", "beta", "--store", str(store), "--out", str(tmp_path / "a.html")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "A: small, a run of self_improve" in done.output
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "--overwrite" in again.output
