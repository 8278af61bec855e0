"""Table 3: what is trained on what, and that the run itself is one of its rows."""

from pipeline_lib.config.load import load_recipe
from pipeline_lib.store import ArtifactStore
from tests.flows.experiment import tables, text_of, watch

BEFORE = ["base check_model", "discretize", "base ite-1 generate", "fit_judge", "zero-shot evaluate"]
COMPUTED = [
    "sft_score ite-1 train_sft",
    "base ite-2 generate",
    "sft_score ite-2 train_sft",
    "sft_score evaluate",
    "sft_score judge",
    "sft_score_text ite-1 train_sft",
    "sft_score_text ite-2 train_sft",
    "sft_score_text evaluate",
    "sft_score_text judge",
    "dpo ite-2 swap",
    "dpo ite-2 compute_reference",
    "dpo ite-2 train_score",
    "dpo ite-2 train_consistency",
    "dpo ties_merge",
    "dpo evaluate",
    "dpo judge",
    "ablation compare",
]


def test_all_rows_see_the_same_photographs_and_take_as_many_steps(again, finished):
    from flows.experiments.ablation import ablation

    store = ArtifactStore(again.runtime.store)
    own = {name: store.children(f"steps/{name}") for name in ("generate", "train_score", "train_consistency")}
    watched = watch(ablation, again)
    assert watched.computed == COMPUTED
    assert watched.cached[:5] == BEFORE
    assert "dpo ite-1 train_score" in watched.cached  # the run's own first iteration
    assert "ite-2 merged evaluate" in watched.cached

    table = text_of(again, "ablation")
    names = ["zero-shot", "SFT score", "SFT score & text", "DPO", "iterative DPO"]
    assert [line.partition("  ")[0].rstrip(" *") for line in table.splitlines()[4:9]] == names
    own_results = (finished[0] / "store/runs/small/report/results.txt").read_text()
    merged = next(line for line in own_results.splitlines() if line.startswith("ite-2 merged"))
    assert merged.split()[2] == table.splitlines()[8].split()[2]  # the PLCC of the run itself

    pairs = tables(store, "generate", "score_pairs")
    (base_2,) = (table for key, table in pairs.items() if key not in own["generate"])
    first, second = (
        store.read_table(store.read_pointer(f"runs/small/iteration-{n:02d}/score_pairs.json")["address"], "score_pairs")
        for n in (1, 2)
    )
    for column in ("image", "true_score", "wrong_score"):
        assert base_2[column].to_pylist() == second[column].to_pylist()
    assert base_2["chosen"].to_pylist() == first["chosen"].to_pylist()  # the base again, on the same photographs
    assert base_2["chosen"].to_pylist() != second["chosen"].to_pylist()

    logs = [*tables(store, "train_sft", "training_log").values()]
    for stage in ("train_score", "train_consistency"):
        logs += tables(store, stage, "training_log").values()
    assert len(logs) == 2 * 2 + 3 + 2
    assert {log.num_rows for log in logs} == {5}
    rates = sorted(max(log["learning_rate"].to_pylist()) for log in tables(store, "train_sft", "training_log").values())
    lr = again.training.learning_rate
    assert [round(rate / lr, 6) for rate in rates] == [0.8, 0.8, 1.0, 1.0]  # decayed as in the run

    assert watch(ablation, again).computed == []


def test_without_the_iterative_row_the_loop_is_not_run(again, finished):
    from flows.experiments.ablation import ablation

    changes = {"runtime.store": again.runtime.store, "iterations": 1, "ablation.rows": ["dpo"]}
    watched = watch(ablation, load_recipe(finished[0] / "small.yaml", changes))
    assert watched.computed == ["ablation compare"]  # one iteration has no consistency adapter and nothing to merge
    assert not [stage for stage in watched.cached if stage.startswith("ite-")]
