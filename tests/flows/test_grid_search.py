"""The grid search: chosen on validation, the test photographs are never opened, finished cells are cache hits."""

from typer.testing import CliRunner

from pipeline_lib.config.load import load_recipe
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.gc import garbage
from tests.flows.experiment import tables, text_of, watch
from whyscore.cli import app

CELL, OTHER = "lr 0.002 · beta 0.5 · rank 16", "lr 0.002 · beta 0.5 · rank 4"


def test_a_grid_is_searched_without_the_test_split(again, finished):
    from flows.experiments.grid_search import grid_search

    changes = {
        "runtime.store": again.runtime.store,
        "grid_search": {"learning_rate": [2e-3], "beta": [0.5], "lora_rank": [16, 4]},
    }
    recipe = load_recipe(finished[0] / "small.yaml", changes)
    store = ArtifactStore(recipe.runtime.store)
    earlier = store.children("steps/evaluate")
    watched = watch(grid_search, recipe)
    # The recipe's own cell is the run's first iteration, and all cells have its reference.
    assert {"ite-1 compute_reference", f"{CELL} train_score"} <= set(watched.cached)
    assert watched.computed == [
        f"{CELL} evaluate", f"{OTHER} train_score", f"{OTHER} evaluate", "grid search compare",
    ]  # fmt: skip
    for name in ("predictions", "metrics"):
        found = tables(store, "evaluate", name, earlier)
        assert len(found) == 2
        assert {split for table in found.values() for split in table["split"].to_pylist()} == {"val"}

    store.files.remove(store.path("runs/small/grid_search/comparison.json"))  # as if killed before the end
    gone = [removal.path for removal in garbage(store, 0) if removal.kind == "artifacts of no run"]
    assert [path.split("/")[1] for path in gone] == ["compare"]  # finished cells stay

    text = text_of(recipe, "grid_search")
    assert "chosen" in text and "training: {learning_rate: 0.002, beta: 0.5, lora_rank: " in text

    sets = [f"{name}={value}" for name, value in changes.items() if name != "grid_search"]
    sets += ["grid_search.learning_rate=[0.002]", "grid_search.beta=[0.5]", "grid_search.lora_rank=[4]"]
    arguments = [argument for field in sets for argument in ("--set", field)]
    answer = CliRunner().invoke(app, ["grid-search", str(finished[0] / "small.yaml"), *arguments])
    assert answer.exit_code == 0, answer.output
    assert f"Chosen: {OTHER}" in answer.output and "grid_search/comparison.html" in answer.output
    assert len(store.children("steps/train_score")) == 2 + 1  # the narrower grid computed no cell again
