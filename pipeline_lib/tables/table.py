"""A table that stages publish: its name, its version and its Arrow schema; and writing rows.

The tables themselves are in this package by theme, those of one method in `methods/<method>/tables.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.errors import StoreError

KNOWN: dict[str, int] = {}
"""The version of every table whose module was imported, by its name."""


@dataclass(frozen=True)
class Table:
    """The content of `<name>.parquet`. Increase `version` when a reader of the old files would go wrong.

    An artifact with another version of a known table is a miss. Two tables may share a name, when two stages
    write other columns into files of that name; then they share the version, or `ValueError` is raised.
    """

    name: str
    version: int
    schema: pa.Schema

    def __post_init__(self) -> None:
        if KNOWN.setdefault(self.name, self.version) != self.version:
            raise ValueError(f"table {self.name} is version {KNOWN[self.name]} elsewhere, here {self.version}")


def other_version(tables: dict[str, int]) -> str | None:
    """A sentence on the first of these tables (name: version) with another known version; None if there is none."""
    for name, version in tables.items():
        if version != KNOWN.get(name, version):
            return f"table {name} is version {version}, this is version {KNOWN[name]}"
    return None


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A column without nulls."""
    return pa.field(name, kind, nullable=False)


def conform(table: pa.Table, schema: pa.Schema, *, extra_columns: bool = False) -> pa.Table:
    """Put the columns in the schema's order and cast them; `extra_columns` keeps further columns behind them.

    Raises `StoreError` when a column is missing, does not cast, or holds nulls where the schema allows none.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise StoreError(f"table lacks column(s) {', '.join(missing)}; it has {', '.join(table.column_names)}")
    more = [name for name in table.column_names if name not in schema.names]
    if more and not extra_columns:
        raise StoreError(f"table has column(s) {', '.join(more)} that its schema does not know")
    fields = [*schema, *(table.schema.field(name) for name in more)]
    table = table.select([field.name for field in fields])
    for field in schema:
        nulls = table.column(field.name).null_count
        if nulls and not field.nullable:
            raise StoreError(f"column {field.name} holds {nulls} null(s) where its schema allows none")
    try:
        return table.cast(pa.schema(fields))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StoreError(f"table does not fit its schema: {error}") from error


def write_parquet(path: Path, table: pa.Table, schema: pa.Schema, *, extra_columns: bool = False) -> int:
    """Write a conforming table and return its number of rows; equal tables give equal bytes."""
    conformed = conform(table, schema, extra_columns=extra_columns)
    pq.write_table(conformed, path, compression="zstd")
    return int(conformed.num_rows)
