"""A run beside its negative control, which was trained on permuted scores: a gain counts only beyond its control."""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.metrics.intervals import change, paired_difference
from pipeline_lib.metrics.readings import stated_digits
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.tables.table import Table, required

Array = NDArray[np.float64]

Quantity = Literal["zero-shot", "final", "control", "gain", "control_gain", "beyond"]
"""Three models, and three paired differences: final less zero-shot, control less zero-shot, final less control."""

Outcome = Literal["counts", "does not count", "no gain shown", "not compared"]

CONTROL_FIGURES = Table(
    "control_figures",
    1,
    pa.schema(
        [
            required("metric", pa.string()),  # srcc by a reading, e.g. srcc_unfitted, or cons
            required("quantity", pa.string()),  # see `Quantity`
            required("value", pa.float64()),
            required("low", pa.float64()),
            required("high", pa.float64()),
            required("rows", pa.int64()),  # test images
        ]
    ),
)

CONS = "cons"
READINGS = ("stated", "unfitted", "monotone", "fitted")
"""The order in which readings are shown; others follow."""

_READING = re.compile(r"srcc_(?P<reading>[a-z]+)")


class Measured(NamedTuple):
    """What the evaluation of a model and its leading judge left."""

    predictions: pa.Table  # PREDICTIONS
    metrics: pa.Table  # METRICS
    verdicts: pa.Table  # VERDICTS
    judge_metrics: pa.Table  # METRICS


def control_figures(
    zero_shot: Measured, final: Measured, control: Measured, *, images: pa.Table, bootstrap: Bootstrap, seed: int
) -> pa.Table:
    """Figures on test as `CONTROL_FIGURES`: SRCC by each reading that all three models have, and Cons.

    `final` and `control` are the last models of the run and of its control, `zero_shot` is the base of both, and
    `images` has the groups (`IMAGES`). Differences are paired: each resample of groups serves both models. They are NaN
    where the predictions of a reading are not kept. Raises `DataError` when the models saw different test images.
    """
    models = {"zero-shot": zero_shot, "final": final, "control": control}
    tested = {name: _on_test(model.predictions) for name, model in models.items()}
    names = tested["final"]["image"].to_pylist()
    if any(table["image"].to_pylist() != names for table in tested.values()):
        raise DataError("a run and its control were evaluated on different test images; make both from one recipe")
    group_of = dict(zip(images["image"].to_pylist(), images["group"].to_pylist(), strict=True))
    true = tested["final"]["score"].to_numpy()

    rows = []
    for metric in _metrics(models.values()):
        rows += [_row(metric, name, _found(model, metric)) for name, model in models.items()]
        if metric == CONS:
            values = {name: _grades(model.verdicts, names) for name, model in models.items()}
        else:
            values = {name: _predicted(table, metric) for name, table in tested.items()}
        for quantity, after, before in (
            ("gain", "final", "zero-shot"), ("control_gain", "control", "zero-shot"), ("beyond", "final", "control"),
        ):  # fmt: skip
            pair = values[before], values[after]
            there = np.isfinite(pair[0]) & np.isfinite(pair[1])
            difference = paired_difference(
                _mean if metric == CONS else _srcc,
                *(column[there] for column in (true, *pair)),
                groups=np.array([group_of[name] for name in names], dtype=str)[there],
                samples=bootstrap.bootstrap_samples, confidence=bootstrap.confidence, seed=seed,
            )  # fmt: skip
            rows.append(_row(metric, quantity, difference._replace(rows=int(there.sum()))))
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


def _metrics(models: Iterable[Measured]) -> Iterator[str]:
    measured = [
        {row["metric"] for table in (model.metrics, model.judge_metrics) for row in table.to_pylist() if _is_test(row)}
        for model in models
    ]
    common = set.intersection(*measured)
    readings = {match["reading"] for name in common if (match := _READING.fullmatch(name))}
    known = [reading for reading in READINGS if reading in readings]
    yield from (f"srcc_{reading}" for reading in [*known, *sorted(readings - set(known))])
    if CONS in common:
        yield CONS


def _is_test(row: dict[str, object]) -> bool:
    return row["split"] == "test"


def _on_test(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["split"], "test"))


def _found(model: Measured, metric: str) -> Estimate:
    (row,) = [
        row
        for table in (model.metrics, model.judge_metrics)
        for row in table.to_pylist()
        if _is_test(row) and row["metric"] == metric
    ]
    return Estimate(row["value"], row["low"], row["high"], row["rows"])


def _predicted(predictions: pa.Table, metric: str) -> Array:
    """The predicted score of each image by the reading of a metric; NaN where the table does not have it."""
    reading = metric.removeprefix("srcc_")
    if reading == "stated":
        distributions = np.array(predictions["score_distribution"].to_pylist(), dtype=np.float64)
        return stated_digits(distributions).astype(np.float64)
    column = f"predicted_{reading}"
    if column not in predictions.column_names:
        return np.full(predictions.num_rows, np.nan)
    return np.asarray(predictions[column].to_numpy(), dtype=np.float64)


def _grades(verdicts: pa.Table, names: list[str]) -> Array:
    """The grade of each image's explanation; NaN where it was not scored."""
    tested = _on_test(verdicts)
    graded = dict(zip(tested["image"].to_pylist(), tested["consistency"].to_pylist(), strict=True))
    grades = [graded.get(name) for name in names]
    return np.array([np.nan if grade is None else float(grade) for grade in grades])


def _srcc(true: Array, predicted: Array) -> float:
    if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(true), stats.rankdata(predicted))[0, 1])


def _mean(_: Array, grades: Array) -> float:
    return float(grades.mean()) if len(grades) else float("nan")


def _row(metric: str, quantity: str, estimate: Estimate) -> dict[str, object]:
    return {"metric": metric, "quantity": quantity, **estimate._asdict()}
