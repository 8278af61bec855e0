"""Several seeds as one flow: an ordinary run each, and their comparison."""

from pathlib import Path

import pytest

from pipeline_lib.config.load import load_recipe_of
from pipeline_lib.config.seeds import recipe_of_seed
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.key import read_reference
from pipeline_lib.store.runs import RunFolder
from tests.flows.conftest import listen
from tests.flows.test_status_and_gc import refused, whyscore
from tests.small_run import Watched, write_small_recipe

QUICK = {"iterations": 1, "faithfulness.rows": 0, "judge.anchors": 0}


def run_seeds(recipe: SelfImproveRecipe, *seeds: int) -> Watched:
    from flows.seeds import seeds as seeds_flow

    with listen("whyscore") as messages:
        seeds_flow(recipe.name, {seed: recipe_of_seed(recipe, seed) for seed in seeds})
    return Watched(messages, [])


def test_each_seed_is_a_run_and_a_further_seed_costs_one_run(prefect_server: str, tmp_path: Path) -> None:
    from flows.self_improve import self_improve

    table = write_dataset(tmp_path / "data", seed=5, train=24, val=16, test=8)
    path = write_small_recipe(tmp_path, tmp_path / "store", table)
    recipe = load_recipe_of(SelfImproveRecipe, path, QUICK)
    store = ArtifactStore(recipe.runtime.store)
    self_improve(recipe_of_seed(recipe, 1))
    further = run_seeds(recipe, 1, 2)
    assert further.computed.count("ite-1 train_score") == 1 and further.computed[-1] == "compare_seeds"
    assert store.children("runs") == ["small-seed-1", "small-seed-2", "small-seeds"]
    assert run_seeds(recipe, 1, 2).computed == []

    compared = read_reference(store.read_pointer("runs/small-seeds/report.json"))
    figures = store.read_table(compared.address, "seed_figures").to_pylist()
    assert {(row["seed"], row["model"]) for row in figures} == {(n, m) for n in (1, 2) for m in ("zero-shot", "final")}
    for seed in (1, 2):
        for model, role in (("zero-shot", "iteration-00/zero-shot"), ("final", "iteration-01/score")):
            ref = read_reference(store.read_pointer(f"runs/small-seed-{seed}/{role}/predictions.json"))
            own = {
                r["metric"]: r["value"]
                for r in store.read_table(ref.address, "metrics").to_pylist()
                if r["split"] == "test"
            }
            shown = {
                r["metric"]: r["value"]
                for r in figures
                if (r["seed"], r["model"], r["source"]) == (seed, model, "predictions")
            }
            assert shown == own
    text = Path(store.path("runs/small-seeds/report/results.txt")).read_text()
    assert "seed 2, final" in text and "over 2 seeds" in " ".join(text.split())

    options = [option for field in QUICK.items() for option in ("--set", "=".join(map(str, field)))]
    planned = whyscore("plan", path, "--seeds", "1,2,4", *options).splitlines()
    assert [line for line in planned if line.startswith("Run ")] == [f"Run small-seed-{seed}" for seed in (1, 2, 4)]
    ends = [line.rsplit(", ", 1)[-1] for line in planned if line.endswith("to compute")]
    assert ends[:2] == ["0 to compute"] * 2 and ends[2] != "0 to compute"

    said = whyscore("status", path, "--store", store.root)
    assert all(f"{name}: finished" in said for name in ("small-seed-1", "small-seed-2", "small-seeds"))
    whyscore("gc", "--store", store.root, "--days", 0, "--apply")
    assert run_seeds(recipe, 1, 2).computed == []


@pytest.mark.parametrize("seeds", ["1", "1,1", "1,x", "", "1,-2"])
def test_other_seeds_are_refused_at_once(seeds: str, tmp_path: Path) -> None:
    said = refused("seeds", write_small_recipe(tmp_path, tmp_path / "store"), "--seeds", seeds)
    assert "1,2,3" in said and "Traceback" not in said and not (tmp_path / "store").exists()


def test_the_folder_of_another_run_is_not_taken(tmp_path: Path) -> None:
    from tasks.common.seeds import comparison_folder

    recipe = load_recipe_of(SelfImproveRecipe, write_small_recipe(tmp_path, tmp_path / "store"))
    store, images = ArtifactStore(recipe.runtime.store), ArtifactRef(stage="discretize", key="k")
    recipes = {1: recipe_of_seed(recipe, 1)}
    for name in ("small-seed-1", "small-seeds"):
        RunFolder(store, name, {"seed": 1}, images).begin()
    with pytest.raises(RecipeError) as raised:
        comparison_folder(store, "small", recipes, controls=False)
    assert "small-seeds" in str(raised.value)
