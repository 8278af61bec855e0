"""Figures with their intervals."""

import pyarrow as pa

from pipeline_lib.tables.table import Table, required

METRICS = Table(
    "metrics",
    1,
    pa.schema(
        [
            required("split", pa.string()),
            required("metric", pa.string()),  # srcc_stated, srcc_monotone, .., parse_rate, cons, use, gen, ..
            required("value", pa.float64()),
            required("low", pa.float64()),  # its interval; NaN where there is none
            required("high", pa.float64()),
            required("rows", pa.int64()),
        ]
    ),
)
