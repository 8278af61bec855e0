"""Merges beside the paper's: of the run's own adapters, on validation alone."""

from pipeline_lib.config.load import load_recipe
from pipeline_lib.store import ArtifactStore
from tests.flows.experiment import tables, text_of, watch

PAPER = "ties · factors · (1, 1) · density 0.5 · frequency"
LINEAR = "linear · factors · (0.5, 0.5)"
DELTA = "ties · delta · (1, 1) · density 0.5 · total"


def test_merges_of_the_runs_adapters_are_compared_on_validation(again, finished):
    from flows.experiments.merge_ablation import merge_ablation

    merges = [
        {},
        {"method": "linear", "weights": [0.5, 0.5]},
        {"space": "delta", "majority_sign_method": "total"},
    ]
    changes = {"runtime.store": again.runtime.store, "merge_ablation.merges": merges}
    recipe = load_recipe(finished[0] / "small.yaml", changes)
    store = ArtifactStore(recipe.runtime.store)
    earlier = store.children("steps/evaluate")
    watched = watch(merge_ablation, recipe)
    assert watched.computed == [
        "score adapter evaluate", "score adapter judge", "consistency adapter evaluate", "consistency adapter judge",
        f"{PAPER} evaluate", f"{PAPER} judge",
        f"{LINEAR} ties_merge", f"{LINEAR} evaluate", f"{LINEAR} judge",
        f"{DELTA} ties_merge", f"{DELTA} evaluate", f"{DELTA} judge",
        "merge ablation compare",
    ]  # fmt: skip
    assert {"ite-2 train_score", "ite-2 train_consistency", f"{PAPER} ties_merge"} <= set(watched.cached)

    found = tables(store, "evaluate", "predictions", earlier)
    assert len(found) == 5
    assert {split for table in found.values() for split in table["split"].to_pylist()} == {"val"}
    lines = text_of(recipe, "merge_ablation").splitlines()
    assert [line.partition("  ")[0] for line in lines[4:9]] == [
        "score adapter", "consistency adapter", PAPER, LINEAR, DELTA,
    ]  # fmt: skip
    assert lines[6].endswith("the paper’s, this recipe’s")
