"""Anchors: the same test images of every model, kept so that a later judge can rate old iterations."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.judge_metrics import judge_metrics
from pipeline_lib.methods.self_improve.tables import ANCHORS, VERDICTS
from pipeline_lib.metrics.agreement import Agreement, judge_agreement
from pipeline_lib.sampling import draw_rows
from pipeline_lib.tables.table import conform


class AnchorVerdicts(NamedTuple):
    """One judge's verdicts on the anchors, in `ANCHOR_VERDICTS`."""

    judge: str
    table: pa.Table


def draw_anchors(predictions: Sequence[tuple[int, str, pa.Table]], rows: int, seed: int) -> pa.Table:
    """Explanations of `rows` test images (all if there are fewer) by every model, in `ANCHORS`.

    `predictions` holds iteration, kind and the table in `PREDICTIONS` of each model. Unparsed answers are kept too,
    without a text, because they count for the model. Raises `DataError` when a model lacks one of the images.
    """
    images: list[str] | None = None
    parts = []
    for iteration, kind, table in predictions:
        test = table.filter(pc.equal(table["split"], "test"))
        if images is None:
            images = draw_rows(test, min(1.0, rows / max(test.num_rows, 1)), f"{seed}:anchors")["image"].to_pylist()
        chosen = test.filter(pc.is_in(test["image"], pa.array(images, pa.string())))
        if sorted(chosen["image"].to_pylist()) != sorted(images):
            raise DataError(f"anchors: iteration {iteration} {kind} was not evaluated on the same test images")
        chosen = chosen.sort_by("image").select(["image", "image_sha256", "group", "stated_score", "explanation"])
        for column, value, type_ in (("iteration", iteration, pa.int32()), ("kind", kind, pa.string())):
            chosen = chosen.append_column(column, pa.array([value] * chosen.num_rows, type_))
        parts.append(conform(chosen, ANCHORS.schema))
    return pa.concat_tables(parts) if parts else ANCHORS.schema.empty_table()


def anchor_figures(judges: list[AnchorVerdicts], config: Bootstrap, seed: int) -> str:
    """Cons, Use and Gen of every model by every judge, and the first judge's agreement with each other one."""
    lines = [f"{'model':<20} {'judge':<32} {'Cons':<20} {'Use':<20} {'Gen':<20} unscored"]
    for iteration, kind in _models(judges[0].table):
        for position, (judge, table) in enumerate(judges):
            of = table.filter(pc.and_(pc.equal(table["iteration"], iteration), pc.equal(table["kind"], kind)))
            metrics = judge_metrics(of.select(VERDICTS.schema.names), config, seed).to_pylist()
            found = {row["metric"]: row for row in metrics if row["split"] == "test"}
            name = (f"ite-{iteration} {kind}" if iteration else kind) if position == 0 else ""
            figures = " ".join(f"{_interval(found.get(figure)):<20}" for figure in ("cons", "use", "gen"))
            lines.append(f"{name:<20} {judge:<32} {figures} {found['unscored_rate']['value']:.1%}")
    first, *others = judges
    for other in others:
        agreement = judge_agreement(
            first.table, other.table, split="test", samples=config.bootstrap_samples, confidence=config.confidence,
            seed=seed,
        )  # fmt: skip
        lines += ["", f"{first.judge} and {other.judge} on consistency: {_agreement(agreement)}"]
    return "\n".join(
        [
            *lines,
            "",
            f"Intervals: {config.confidence:.0%} bootstrap over groups of images; grades 0 bad .. 4 excellent.",
        ]
    )


def _models(table: pa.Table) -> list[tuple[int, str]]:
    return list(dict.fromkeys(zip(table["iteration"].to_pylist(), table["kind"].to_pylist(), strict=True)))


def _interval(row: dict[str, float] | None) -> str:
    if row is None or not row["rows"]:
        return "-"
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _agreement(found: Agreement) -> str:
    spearman, kappa = (
        f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]" for estimate in (found.spearman, found.kappa)
    )
    return (
        f"Spearman {spearman}, weighted kappa {kappa}, the same grade {found.same:.0%}, at most one apart"
        f" {found.within_one:.0%}, {found.rows:,} explanations"
    )
