"""Synthetic pairs: which texts make one, and why others make none."""

import pyarrow as pa
import pytest

from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.self_judge.pairs import (
    closed_pair,
    draw_prompts,
    load_inject_prompt,
    open_pair,
    synthesis_metrics,
)
from pipeline_lib.methods.self_judge.recipe import Pairs


@pytest.mark.parametrize(
    ("answer", "changed", "finished", "status"),
    [
        ("A red boat on the left.", "A blue boat on the left.", True, "pair"),
        ("A red boat.", " a  red boat", True, "equal"),
        ("A red boat.", "A red boat, and many more things that nobody asked for.", True, "length"),
        ("A red boat and many other things that are there.", "A boat.", True, "length"),
        ("A red boat.", "A blue boat.", False, "unfinished"),
        ("A red boat.", "  ", True, "unfinished"),
    ],
)
def test_an_open_pair_differs_in_content_and_not_in_length(
    answer: str, changed: str, finished: bool, status: str
) -> None:
    assert open_pair(answer, changed, finished=finished, max_length_difference=0.2).status == status


def test_a_closed_pair_is_the_majority_against_another_answer() -> None:
    config = Pairs(votes=16, min_votes=5)
    pair = closed_pair(["red"] * 5 + ["Red.", "blue", "green"], config, None, "x")
    assert (pair.status, pair.better, pair.votes) == ("pair", "red", 6) and pair.worse in ("blue", "green")
    others = {closed_pair(["red"] * 5 + ["blue", "green"], config, None, str(at)).worse for at in range(30)}
    assert others == {"blue", "green"}  # drawn, not always the first
    assert closed_pair(["red"] * 4 + ["blue"], config, None, "x").status == "few_votes"
    assert closed_pair(["red"] * 6 + ["blue"] * 6, config, None, "x").status == "few_votes"  # no majority
    assert closed_pair(["red"] * 16, config, None, "x").status == "no_other"
    assert closed_pair([], config, None, "x").status == "few_votes"


def test_known_answers_replace_the_majority_where_the_recipe_says_so() -> None:
    config = Pairs(closed="known_answer")
    pair = closed_pair(["red"] * 9 + ["Blue"], config, "blue", "x")
    assert (pair.status, pair.better, pair.worse, pair.votes) == ("pair", "Blue", "red", 1)
    assert closed_pair(["red"] * 9, config, "blue", "x").status == "not_known"
    assert closed_pair(["red"] * 9 + ["blue"], config, None, "x").status == "not_known"


def _prompts(count: int) -> pa.Table:
    rows = [
        {"prompt_id": f"{kind}{at}", "split": split, "kind": kind}
        for at in range(count)
        for kind in ("open", "closed")
        for split in ("train", "val")
    ]
    return pa.Table.from_pylist(rows)


def test_a_share_of_each_kind_is_drawn_anew_each_iteration() -> None:
    drawn = [
        draw_prompts(_prompts(20), "train", Pairs(share=0.25), f"0:{at}")["prompt_id"].to_pylist() for at in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [sum(name.startswith(kind) for name in drawn[0]) for kind in ("open", "closed")] == [5, 5]
    assert set(draw_prompts(_prompts(20), "val", Pairs(), "0")["split"].to_pylist()) == {"val"}
    fewer = draw_prompts(_prompts(20), "train", Pairs(share=0.25, closed_share=0.1), "0")["kind"].to_pylist()
    assert fewer.count("open") == 5 and fewer.count("closed") == 2
    assert draw_prompts(_prompts(2), "train", Pairs(share=0.01), "0").num_rows == 2  # one of each at least


def test_dropped_pairs_are_counted_by_their_reason() -> None:
    rows = [
        {"kind": "open", "status": "pair", "better": "longer", "worse": "short", "better_is_known": None},
        {"kind": "open", "status": "equal", "better": "a", "worse": "a", "better_is_known": None},
        {"kind": "closed", "status": "pair", "better": "red", "worse": "blue", "better_is_known": True},
        {"kind": "closed", "status": "pair", "better": "green", "worse": "red", "better_is_known": False},
    ]
    table = pa.Table.from_pylist([row | {"worse_is_known": row["better"] == "green"} for row in rows])
    found = {row["metric"]: row["value"] for row in synthesis_metrics(table, "train").to_pylist()}
    assert found["pair: open"] == found["equal: open"] == 0.5 and found["pair: closed"] == 1.0
    assert found["better_is_longer: open"] == 1.0 and found["better_is_longer: closed"] == 0.5
    assert found["label_known_right: closed"] == 0.5 and found["label_known_wrong: closed"] == 0.5
    assert "label_known_right: open" not in found


def test_the_prompt_for_errors_shows_the_answer_and_takes_braces_as_text() -> None:
    prompt = load_inject_prompt("detailed")
    said = prompt.ask("Where {answer}?", "left {question}")
    assert "Question: Where {answer}?" in said and "Answer: left {question}" in said
    with pytest.raises(RecipeError, match="detailed, short"):
        load_inject_prompt("nothing")
