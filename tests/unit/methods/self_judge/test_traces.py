"""Which reasons are kept, how pairs are counted, and the balance of what is trained on."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from pipeline_lib.methods.self_judge.recipe import Filter
from pipeline_lib.methods.self_judge.tables import REASONS
from pipeline_lib.methods.self_judge.traces import balanced, filter_reasons


def reasons(verdicts: dict[str, tuple[str | None, str | None]], kind: str = "open", sample: int = 0) -> list[Any]:
    """A row an order of each pair: its verdicts with the better answer as A, and as B."""
    return [
        {
            "image": "1.jpg",
            "image_sha256": "s",
            "pair_id": pair,
            "group": "g",
            "kind": kind,
            "better_letter": letter,
            "sample": sample,
            "prompt": "<image> Which?",
            "text": f"{pair}{letter}{sample}",
            "verdict": verdict,
            "prompt_tokens": 50,
            "tokens": 9,
            "finished": True,
        }
        for pair, both in verdicts.items()
        for letter, verdict in zip("AB", both, strict=True)
    ]


PAIRS: dict[str, tuple[str | None, str | None]] = {
    "right": ("A", "B"),
    "wrong": ("B", "A"),
    "always_a": ("A", "A"),
    "always_b": ("B", "B"),
    "silent": ("A", None),
}


def _filtered(config: Filter, *, flipped: bool = False) -> tuple[dict[str, str], list[str], dict[str, float]]:
    found = filter_reasons(pa.Table.from_pylist(reasons(PAIRS), REASONS.schema), config, flipped=flipped)
    metrics = {row["metric"]: row["value"] for row in found.metrics.to_pylist()}
    status = dict(zip(found.pairs["pair_id"].to_pylist(), found.pairs["status"].to_pylist(), strict=True))
    return status, found.traces["chosen"].to_pylist(), metrics


def test_a_reason_is_kept_where_both_orders_find_the_synthetic_preference() -> None:
    status, kept, metrics = _filtered(Filter())
    assert status == {
        "right": "kept",
        "wrong": "wrong",
        "always_a": "inconsistent",
        "always_b": "inconsistent",
        "silent": "unparsable",
    }
    assert kept == ["rightA0", "rightB0"]
    assert metrics["kept"] == 0.2 and metrics["inconsistent"] == 0.4 and metrics["kept: open"] == 0.2
    assert metrics["says_a"] == pytest.approx(5 / 9) and metrics["no_verdict"] == 0.1


def test_one_order_is_enough_where_the_recipe_says_so() -> None:
    status, kept, _ = _filtered(Filter(both_orders=False))
    assert kept == ["rightA0", "rightB0", "always_aA0", "always_bB0", "silentA0"]
    assert [name for name, found in status.items() if found != "kept"] == ["wrong"]


def test_the_control_keeps_the_opposite() -> None:
    status, kept, _ = _filtered(Filter(), flipped=True)
    assert kept == ["wrongA0", "wrongB0"] and status["right"] == "wrong" and status["silent"] == "unparsable"


def test_of_several_samples_the_first_right_one_is_kept() -> None:
    rows = reasons({"p": ("B", None)}) + reasons({"p": ("A", None)}, sample=1) + reasons({"p": ("A", "B")}, sample=2)
    found = filter_reasons(pa.Table.from_pylist(rows, REASONS.schema), Filter())
    assert found.traces["chosen"].to_pylist() == ["pA1", "pB2"]
    assert found.pairs["status"].to_pylist() == ["kept"] and found.pairs["verdict_first"].to_pylist() == ["B"]
    assert found.traces["chosen_tokens"].to_pylist() == [10, 10]  # with the separator


def test_orders_and_kinds_are_trained_on_equally() -> None:
    rows = reasons({f"o{at}": ("A", "B") for at in range(7)}) + reasons(
        {f"c{at}": ("A", "B") for at in range(3)}, kind="closed"
    )
    rows += reasons({"c9": ("A", "A")}, kind="closed")
    kept = filter_reasons(pa.Table.from_pylist(rows, REASONS.schema), Filter(both_orders=False)).traces
    drawn = balanced(kept, "order_and_kind", "0")
    cells = Counter(zip(drawn["kind"].to_pylist(), drawn["better_letter"].to_pylist(), strict=True))
    assert cells == {("open", "A"): 3, ("open", "B"): 3, ("closed", "A"): 3, ("closed", "B"): 3}
    assert balanced(kept, "order_and_kind", "0").equals(drawn) and not balanced(kept, "order_and_kind", "1").equals(
        drawn
    )
    by_order = balanced(kept, "order", "0")["better_letter"].to_pylist()
    assert Counter(by_order) == {"A": 10, "B": 10} and balanced(kept, "none", "0").num_rows == 21
    one_kind = filter_reasons(pa.Table.from_pylist(reasons({"o": ("A", "B")}), REASONS.schema), Filter()).traces
    assert balanced(one_kind, "order_and_kind", "0").num_rows == 2
    assert balanced(one_kind.slice(0, 0), "order_and_kind", "0").num_rows == 0
