"""A run beside its negative control, which was trained on permuted scores: a gain counts only beyond its control."""

from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.report.contents import ModelResults
from pipeline_lib.methods.self_improve.report.differences import compare_models
from pipeline_lib.methods.self_improve.report.lineage import on_split
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.tables.table import Table, required

Quantity = Literal["zero-shot", "final", "control", "gain", "control_gain", "beyond"]
"""Three models, and three paired differences: final less zero-shot, control less zero-shot, final less control."""

Outcome = Literal["counts", "does not count", "no gain shown", "not compared"]

CONTROL_FIGURES = Table(
    "control_figures",
    1,
    pa.schema(
        [
            required("metric", pa.string()),  # of `METRICS` and `DIFFERENCES`: srcc by a reading, or a Cons
            required("quantity", pa.string()),  # see `Quantity`
            required("value", pa.float64()),
            required("low", pa.float64()),
            required("high", pa.float64()),
            required("rows", pa.int64()),  # test images
        ]
    ),
)

METRICS_SHOWN = ("srcc_stated", "srcc_unfitted", "srcc_monotone", "srcc_fitted", "cons", "cons_corrected")
"""In this order, those that all three models have; of each, higher is better."""


def control_figures(
    zero_shot: ModelResults, final: ModelResults, control: ModelResults, bootstrap: Bootstrap, seed: int
) -> pa.Table:
    """Figures on test as `CONTROL_FIGURES`: SRCC by each reading, and Cons.

    `final` and `control` are the last models of the run and of its control, `zero_shot` is the base of both.
    Differences are those of `report.differences`: resamples of groups serve both models. Raises `DataError` when the
    models were evaluated on different test images.
    """
    models = {"zero-shot": zero_shot, "final": final, "control": control}
    tested = [on_split(model.predictions, "test")["image"].to_pylist() for model in models.values()]
    if any(images != tested[0] for images in tested):
        counts = ", ".join(str(len(images)) for images in tested)
        raise DataError(
            "a run and its control must be evaluated on the same test images; those of zero-shot, final model and"
            f" control differ ({counts} images). Make both from one recipe"
        )
    differences = {
        quantity: {found.metric: found for found in compare_models(models[before], models[after], bootstrap, seed)}
        for quantity, before, after in (
            ("gain", "zero-shot", "final"), ("control_gain", "zero-shot", "control"), ("beyond", "control", "final"),
        )
    }  # fmt: skip
    rows = []
    for metric in METRICS_SHOWN:
        if not all(model.has(metric) for model in models.values()):
            continue
        rows += [_row(metric, name, model.metric(metric)) for name, model in models.items()]
        for quantity, of_quantity in differences.items():
            nan = float("nan")
            estimate = Estimate(nan, nan, nan, 0)
            if metric in of_quantity:
                found = of_quantity[metric]
                estimate = Estimate(found.value, found.low, found.high, found.rows)
            rows.append(_row(metric, quantity, estimate))
    return pa.Table.from_pylist(rows, schema=CONTROL_FIGURES.schema)


def metrics_of(figures: pa.Table) -> list[str]:
    """The metrics of a table in `CONTROL_FIGURES`, in its order."""
    return list(dict.fromkeys(figures["metric"].to_pylist()))


def estimates_of(figures: pa.Table, metric: str) -> dict[Quantity, Estimate]:
    """All quantities of one metric."""
    found = {
        row["quantity"]: Estimate(row["value"], row["low"], row["high"], row["rows"])
        for row in figures.to_pylist()
        if row["metric"] == metric
    }
    return {quantity: found[quantity] for quantity in get_args(Quantity)}


def outcome(estimates: dict[Quantity, Estimate]) -> Outcome:
    """Whether a gain counts: the paired intervals of final less zero-shot and of final less control are above 0.

    The second rule is the same for the difference of the two gains, because both start from one zero-shot model.
    """
    gain, beyond = estimates["gain"], estimates["beyond"]
    if not (np.isfinite(gain.low) and np.isfinite(beyond.low)):
        return "not compared"
    if change(gain) != "raised":
        return "no gain shown"
    return "counts" if change(beyond) == "raised" else "does not count"


def _row(metric: str, quantity: str, estimate: Estimate) -> dict[str, object]:
    return {"metric": metric, "quantity": quantity, **estimate._asdict()}
