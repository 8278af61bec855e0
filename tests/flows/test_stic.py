"""stic as a flow: its stages in order, nothing computed twice, its control, and self_improve on its model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.stic import stic
from pipeline_lib.config.load import load_recipe_of
from pipeline_lib.methods.stic.recipe import SticRecipe
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import read_run
from pipeline_lib.vlm.model_ref import resolve_model
from tests.flows.experiment import watch

STAGES = [
    "instructions list_questions",
    "questions list_questions",
    "list_images",
    "stage-1 describe_both_ways",
    "stage-1 compute_preference_logps",
    "base describe",
    "base evaluate_answers",
    "stage-1 train_preferences",
    "preferences describe",
    "preferences evaluate_answers",
    "stage-2 describe",
    "stage-2 infuse",
    "stage-2 train_infused",
    "infused describe",
    "infused evaluate_answers",
    "report",
]
CONTROL = [f"control {stage}" for stage in STAGES[7:-1]]


@pytest.fixture(scope="module")
def made(small_stic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe of a finished run and a copy of its store, to which tests of this file may add."""
    folder = tmp_path_factory.mktemp("stic")
    shutil.copytree(small_stic / "store", folder / "store")
    recipe = (small_stic / "small_stic.yaml").read_text()
    (folder / "small_stic.yaml").write_text(recipe.replace(str(small_stic / "store"), str(folder / "store")))
    return folder


def recipe_over(made: Path, store: Path | None = None, **fields: object) -> SticRecipe:
    given = {"runtime.store": str(store or made / "store")} | {
        name.replace("__", "."): value for name, value in fields.items()
    }
    return load_recipe_of(SticRecipe, made / "small_stic.yaml", given)


def test_a_run_computes_what_was_planned(small_stic: Path) -> None:
    seen = json.loads((small_stic / "watched.json").read_text())
    assert seen == {"planned": STAGES, "computed": STAGES, "cached": []}


def test_a_run_leaves_models_figures_and_a_report(made: Path) -> None:
    store = ArtifactStore(str(made / "store"))
    run = read_run(store, "small-stic")
    assert run is not None
    assert [model.name for model in run.models()] == ["base", "ite-1 preferences", "ite-2 infused"]
    base, final = run.ends() or (None, None)
    assert base is not None and final is not None and (base.kind, final.kind) == ("base", "infused")
    report = made / "store/runs/small-stic/report"
    html, text = (report / "report.html").read_text(), (report / "results.txt").read_text()
    assert "stage 2" in text and "wrong statements" in text and html.count("<svg") >= 5 and "data:image/jpeg" in html
    infused = run.find("iteration-02/infused_data")
    pairs = run.find("iteration-01/preferences_data")
    assert infused and pairs
    rows = store.read_table(infused.address, "infused").to_pylist()
    assert len(rows) == 24 and all("Image description:" in row["prompt"] for row in rows)
    assert store.read_table(pairs.address, "preferences").num_rows == 12


def test_a_finished_run_computes_nothing_and_a_field_only_what_follows_from_it(made: Path, tmp_path: Path) -> None:
    assert watch(stic, recipe_over(made)).computed == []
    shutil.copytree(made / "store", tmp_path / "store")
    other = watch(stic, recipe_over(made, tmp_path / "store", questions__scoring="vqa", evaluation__margin=0.2))
    assert other.computed == [f"{kind} evaluate_answers" for kind in ("base", "preferences", "infused")] + ["report"]


def test_the_ablations_run(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "store", tmp_path / "store")
    alone = watch(stic, recipe_over(made, tmp_path / "store", training__loss="sft", infusion__describe=False))
    assert "stage-1 compute_preference_logps" not in alone.computed + alone.cached
    assert "stage-1 train_preferences" in alone.computed and "stage-1 describe_both_ways" in alone.cached
    store = ArtifactStore(str(tmp_path / "store"))
    run = read_run(store, "small-stic")
    assert run is not None and (ref := run.find("iteration-02/infused_data"))
    assert store.read_table(ref.address, "infused")["description"].null_count == 24


def test_its_control_exchanges_the_answers_and_both_are_in_one_report(
    made: Path, tmp_path: Path, run_flow: Callable[..., object]
) -> None:
    from flows.controls.stic import stic_control

    shutil.copytree(made / "store", tmp_path / "store")
    recipe = recipe_over(made, tmp_path / "store")
    watched = watch(stic_control, recipe)
    changed = [stage for stage in CONTROL if "base" not in stage]
    assert watched.computed == ["control stage-1 exchange_preferences", *changed, "report"]
    store = ArtifactStore(str(tmp_path / "store"))
    run, control = read_run(store, "small-stic"), read_run(store, "small-stic-control")
    assert run is not None and control is not None
    tables = []
    for found in (run, control):
        ref = found.find("iteration-01/preferences_data")
        assert ref is not None
        tables.append(store.read_table(ref.address, "preferences"))
    assert tables[0]["chosen"].to_pylist() == tables[1]["rejected"].to_pylist()
    assert tables[0]["rejected"].to_pylist() == tables[1]["chosen"].to_pylist()
    assert run.find("iteration-00/base/predictions") == control.find("iteration-00/base/predictions")
    for name in ("small-stic", "small-stic-control"):
        assert "control" in Path(store.path(f"runs/{name}/report/results.txt")).read_text()
    # The report of the run goes on to show it.
    assert watch(stic, recipe).computed == []
    assert "control less stage 2" in Path(store.path("runs/small-stic/report/results.txt")).read_text()


def test_its_model_is_the_base_of_another_run(made: Path) -> None:
    store = ArtifactStore(str(made / "store"))
    run = read_run(store, "small-stic")
    assert run is not None
    recipe = recipe_over(made, name="next", model__id="", model__from_run={"name": "small-stic"})
    model = resolve_model(recipe.model, store)
    assert model.folded == (run.find("model"),) and model.adapter is None
