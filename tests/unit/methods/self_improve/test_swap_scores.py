"""The swap: the rejected answer keeps its text and states the true score."""

from pipeline_lib.methods.self_improve.swap import make_consistency_pairs, swap_scores
from pipeline_lib.methods.self_improve.tables import CONSISTENCY_PAIRS
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import preference_pairs


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
