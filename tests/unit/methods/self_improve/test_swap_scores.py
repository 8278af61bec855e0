"""The swap: the rejected answer keeps its text and states the true score."""

from pathlib import Path

import pytest

from pipeline_lib.config.base import Lora, Runtime
from pipeline_lib.methods.self_improve.recipe import Swap
from pipeline_lib.methods.self_improve.swap import make_consistency_pairs, swap_scores
from pipeline_lib.methods.self_improve.tables import CONSISTENCY_PAIRS, SCORE_PAIRS
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.tables.pairs import REFERENCE_LOGPS
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import preference_pairs
from tasks.self_improve import train_consistency
from tasks.self_improve.swap import swap
from tasks.stage import Work


def test_only_the_score_of_the_rejected_answer_changes() -> None:
    pairs = preference_pairs(20, "Rate.")
    swapped = conform(swap_scores(pairs), CONSISTENCY_PAIRS.schema)
    for name in pairs.column_names:
        if name != "rejected":
            assert swapped[name].equals(pairs[name]), name
    for before, after in zip(pairs.to_pylist(), swapped.to_pylist(), strict=True):
        score, text = before["wrong_score"], before["rejected"].removeprefix(f"#Score: {before['wrong_score']}")
        assert before["rejected"] == f"#Score: {score}{text}"
        assert after["rejected"] == f"#Score: {before['true_score']}{text}"


def test_a_score_within_the_explanation_stays() -> None:
    pairs = preference_pairs(1, "Rate.", rejected=["#Score: 5\n\n#Explain: I give #Score: 5\n\n#Explain: no"])
    assert swap_scores(pairs)["rejected"].to_pylist() == ["#Score: 0\n\n#Explain: I give #Score: 5\n\n#Explain: no"]


def test_a_share_of_the_pairs_is_swapped_and_drawn_anew_each_iteration() -> None:
    pairs = preference_pairs(100, "Rate.")
    first, second = (make_consistency_pairs(pairs, 0.3, 0, iteration) for iteration in (1, 2))
    assert first.num_rows == second.num_rows == 30
    assert first["image"].to_pylist() != second["image"].to_pylist()
    assert first.equals(make_consistency_pairs(pairs, 0.3, 0, 1))
    assert make_consistency_pairs(pairs, 1.0, 0, 1).num_rows == 100


def test_equal_answers_are_counted_by_the_stage_and_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that writes the same text for both scores: no pair of answers is equal before the swap, one is after."""
    same = preference_pairs(3, "Rate.")["chosen"].to_pylist()[1].replace("#Score: 1", "#Score: 6")
    rejected = ["#Score: 5\n\n#Explain: dull.", same, "#Score: 7\n\n#Explain: "]
    store = ArtifactStore(str(tmp_path))
    score_pairs = ArtifactRef(stage="generate", key="a" * 64)
    pairs, reference = ArtifactRef(stage="swap", key="b" * 64), ArtifactRef(stage="compute_reference", key="c" * 64)
    with store.attempt() as attempt:
        attempt.write_table(SCORE_PAIRS, preference_pairs(3, "Rate.", rejected=rejected))
        store.publish(score_pairs.address, attempt, {})
    with store.attempt() as attempt:
        swap.body(Work(store, pairs.address, attempt, Runtime(), ""), Swap(), score_pairs, 0, 2)
        store.publish(pairs.address, attempt, {})
    with store.attempt() as attempt:
        attempt.write_table(REFERENCE_LOGPS, REFERENCE_LOGPS.schema.empty_table())
        store.publish(reference.address, attempt, {})
    metrics = store.read_table(pairs.address, "metrics").to_pylist()
    found = {row["metric"]: (row["value"], row["rows"]) for row in metrics}
    assert found == {"empty_share": (pytest.approx(1 / 3), 3), "equal_share": (pytest.approx(1 / 3), 3)}

    trained: list[str] = []
    monkeypatch.setattr(
        train_consistency, "train", lambda work, job, tables, log: trained.extend(tables["pairs"]["image"].to_pylist())
    )

    class Job:
        lora = Lora(max_length=400)

    with store.attempt() as attempt:
        work = Work(store, "steps/train_consistency/d", attempt, Runtime(), "")
        train_consistency.train_consistency.body(work, Job(), pairs, reference)  # type: ignore[arg-type]
    assert trained == ["train-0.png"]
