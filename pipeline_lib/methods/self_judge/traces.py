"""Reasons with verdicts on synthetic pairs, and which of them are kept for training (stage II)."""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from pipeline_lib.methods.self_judge.recipe import Filter
from pipeline_lib.methods.self_judge.tables import FILTERED, REASONS, TRACES
from pipeline_lib.metrics.intervals import wilson_estimate
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw
from pipeline_lib.tables.metrics import METRICS

if TYPE_CHECKING:
    from pipeline_lib.judges.vlm_judge import JudgePrompt
    from pipeline_lib.vlm.generate import Decoding
    from pipeline_lib.vlm.load import Vlm

Status = Literal["kept", "wrong", "inconsistent", "unparsable"]
STATUSES: tuple[Status, ...] = ("kept", "wrong", "inconsistent", "unparsable")

LETTERS = ("A", "B")


def reason_on(
    vlm: "Vlm",
    prompt: "JudgePrompt",
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    decoding: "Decoding",
    samples: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """`samples` rows of `REASONS` for each order of a pair of `SYNTHESIS`: the better answer as A, and as B."""
    from pipeline_lib.judges.vlm_judge import judge_answers

    records = []
    for pair in pairs.to_pylist():
        for letter in LETTERS:
            a, b = (pair["better"], pair["worse"]) if letter == "A" else (pair["worse"], pair["better"])
            records.append(pair | {"a": a, "b": b, "key": f"{pair['pair_id']}:{letter}", "better_letter": letter})
    judged = judge_answers(
        vlm,
        prompt,
        records,
        open_image,
        decoding=decoding,
        samples=samples,
        batch_size=batch_size,
        progress=progress,
    )
    names = ("image", "image_sha256", "pair_id", "group", "kind", "better_letter")
    rows = [
        {name: record[name] for name in names}
        | {name: getattr(answer, name) for name in _OF_ANSWER}
        | {"sample": sample}
        for record, answers in zip(records, judged, strict=True)
        for sample, answer in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, schema=REASONS.schema)


_OF_ANSWER = ("prompt", "text", "verdict", "prompt_tokens", "tokens", "finished")


class Filtered(NamedTuple):
    """The kept reasons, what became of each pair, and the counts."""

    traces: pa.Table  # TRACES
    pairs: pa.Table  # FILTERED
    metrics: pa.Table  # METRICS


def filter_reasons(reasons: pa.Table, config: Filter, *, flipped: bool = False, confidence: float = 0.95) -> Filtered:
    """Keep the reasons whose verdict is the synthetic preference; `flipped` (the control) those of the opposite one.

    Of several samples of an order the first with the right verdict counts. A pair is *kept* when both orders have one,
    *unparsable* when an order has no verdict at all, *inconsistent* when one order alone has a right one (with one
    sample: both orders name the same letter), else *wrong*. Without `both_orders` the right reason of an inconsistent
    or unparsable pair is kept too, and the pair counts as kept.
    """
    by_pair: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in reasons.to_pylist():
        by_pair[row["pair_id"]][row["better_letter"]].append(row)
    kept, pairs = [], []
    for pair_id, orders in by_pair.items():
        both = [orders[letter] for letter in LETTERS]
        right = [next((row for row in rows if _is_right(row, flipped)), None) for rows in both]
        status = _status([[row["verdict"] for row in rows] for rows in both], [row is not None for row in right])
        if any(right) and not config.both_orders:
            status = "kept"
        if status == "kept":
            kept += [row for row in right if row]
        first, second = (rows[0]["verdict"] for rows in both)
        found = {"kind": both[0][0]["kind"], "status": status, "verdict_first": first, "verdict_second": second}
        pairs.append({"pair_id": pair_id} | found)
    traces = pa.Table.from_pylist([_trace(row) for row in kept], schema=TRACES.schema)
    of_pairs = pa.Table.from_pylist(pairs, schema=FILTERED.schema)
    return Filtered(traces, of_pairs, _metrics(of_pairs, reasons, confidence))


def _is_right(row: dict[str, Any], flipped: bool) -> bool:
    return row["verdict"] is not None and (row["verdict"] == row["better_letter"]) != flipped


def _status(verdicts: list[list[str | None]], right: list[bool]) -> Status:
    if all(right):
        return "kept"
    if any(all(verdict is None for verdict in of_order) for of_order in verdicts):
        return "unparsable"
    return "inconsistent" if any(right) else "wrong"


def _trace(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in TRACES.schema.names if name in row} | {
        "chosen": row["text"],
        "chosen_tokens": row["tokens"] + 1,  # with the separator
        "chosen_finished": row["finished"],
    }


def _metrics(pairs: pa.Table, reasons: pa.Table, confidence: float) -> pa.Table:
    """Shares of the pairs by status, of all and of each kind; of the reasons that say A, and that have no verdict."""
    rows = []

    def add(metric: str, hits: list[bool]) -> None:
        found: Estimate = wilson_estimate(np.array(hits, dtype=bool), confidence=confidence)
        rows.append({"split": "train", "metric": metric, **found._asdict()})

    for kind in ("", "open", "closed"):
        part = pairs.filter(pc.equal(pairs["kind"], kind)) if kind else pairs
        ending = f": {kind}" if kind else ""
        for status in STATUSES:
            add(f"{status}{ending}", [found == status for found in part["status"].to_pylist()])
    add("says_a", [letter == "A" for letter in reasons["verdict"].drop_null().to_pylist()])
    add("no_verdict", [letter is None for letter in reasons["verdict"].to_pylist()])
    return pa.Table.from_pylist(rows, schema=METRICS.schema)


def balanced(traces: pa.Table, over: Literal["order_and_kind", "order", "none"], purpose: str) -> pa.Table:
    """Equally many reasons of each order, or of each order and kind of question that is there; the scarcest decides.

    The rest is left out; which ones stay depends on the names of the pairs. The table's order is kept.
    """
    if over == "none":
        return traces
    cells: dict[tuple[str, str], list[int]] = defaultdict(list)
    kinds = traces["kind"].to_pylist() if over == "order_and_kind" else [""] * traces.num_rows
    for at, (kind, letter) in enumerate(zip(kinds, traces["better_letter"].to_pylist(), strict=True)):
        cells[kind, letter].append(at)
    fewest = min((len(cells[kind, letter]) for kind in sorted(set(kinds)) for letter in LETTERS), default=0)
    names = traces["pair_id"].to_pylist()
    chosen = [
        at
        for rows in cells.values()
        for at in sorted(rows, key=lambda at: draw(f"{purpose}:balance", names[at]))[:fewest]
    ]
    return traces.take(pa.array(sorted(chosen), pa.int64()))
