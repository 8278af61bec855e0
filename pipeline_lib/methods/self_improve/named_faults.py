"""Does an explanation name the fault that its image is known to have (KADID-10k, TID2013, the demo)?"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.evaluation import metric_row
from pipeline_lib.metrics.intervals import grouped_estimates

Array = NDArray[np.float64]
Faults = Mapping[str, Sequence[str]]
"""Words of each fault: a column of severities (`blur`, or `blur>0.2` above a severity), or a value (`distortion=3`)."""

_FAULT = re.compile(r"(?P<column>[^=>]+)(?:=(?P<value>.+)|>(?P<least>[0-9.]+))?")


def fault_metrics(predictions: pa.Table, images: pa.Table, faults: Faults, config: Bootstrap, seed: int) -> pa.Table:
    """How often a test explanation names the fault of its image, in `METRICS`.

    `names_fault` is the share of explanations with a word of the image's fault, `names_fault_chance` the share that is
    expected if the explanations were shuffled over the images. An image has the fault whose value its column has, or
    the fault whose severity is highest among all test images (by rank, so that columns of different scales compare).
    Images without a fault and unparsed answers are left out. Raises `DataError` for a column that the table lacks.
    """
    test = predictions.filter(pc.and_(pc.equal(predictions["split"], "test"), predictions["parsed"])).to_pylist()
    fault_of = image_faults(images.filter(pc.equal(images["split"], "test")), faults)
    rows = [row for row in test if fault_of.get(row["image"])]
    names = list(faults)
    has = np.array([[fault_of[row["image"]] == name for name in names] for row in rows], dtype=np.float64)
    patterns = [re.compile("|".join(map(re.escape, faults[name])), re.IGNORECASE) for name in names]
    said = np.array([[bool(p.search(row["explanation"])) for p in patterns] for row in rows], dtype=np.float64)
    has, said = (matrix.reshape(len(rows), len(names)) for matrix in (has, said))

    def named(weights: Array) -> Array:
        return np.asarray((weights @ (has * said).sum(axis=1)) / weights.sum(axis=1))

    def chance(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        return np.asarray(((weights @ has) / total * ((weights @ said) / total)).sum(axis=1))

    found = grouped_estimates(
        {"names_fault": named, "names_fault_chance": chance},
        groups=np.array([row["group"] for row in rows], dtype=np.str_),
        samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=seed,
    )
    return pa.Table.from_pylist([metric_row("test", name, estimate) for name, estimate in found.items()])


def image_faults(images: pa.Table, faults: Faults) -> dict[str, str | None]:
    """The fault of each image, None if it has none. Raises `DataError` for a column that the table lacks."""
    parts = {name: match for name in faults if (match := _FAULT.fullmatch(name))}
    columns = {name: match["column"] for name, match in parts.items()}
    if missing := sorted({column for column in columns.values() if column not in images.column_names}):
        raise DataError(
            f"faithfulness.faults: the table has no column {', '.join(missing)}; its columns are"
            f" {', '.join(images.column_names)}"
        )
    severities = [name for name, match in parts.items() if not match["value"]]
    found: dict[str, str | None] = dict.fromkeys(images["image"].to_pylist())
    if severities:
        values = np.abs(np.array([images[columns[name]].to_pylist() for name in severities], dtype=np.float64))
        least = np.array([float(parts[name]["least"] or 0) for name in severities])[:, None]
        ranks = np.where(values > least, stats.rankdata(values, axis=1), 0)
        for image, at, highest in zip(found, ranks.argmax(axis=0).tolist(), ranks.max(axis=0).tolist(), strict=True):
            found[image] = severities[at] if highest else None
    for name, match in parts.items():
        if match["value"]:
            for image, value in zip(images["image"].to_pylist(), images[columns[name]].to_pylist(), strict=True):
                if str(value) == match["value"]:
                    found[image] = name
    return found
