"""Long stages in shards: finished shards survive a crash, and any division gives the same table."""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from pipeline_lib.errors import LostArtifactError
from pipeline_lib.progress import Progress
from pipeline_lib.store.manifest import Manifest
from pipeline_lib.store.store import ArtifactStore, Miss
from pipeline_lib.tables.table import Table


class InShards(NamedTuple):
    """A long table, each row computed from one row of another table; `compute` counts its rows in the progress.

    A shard holds `multiple` times the rows of a shard of images, because such rows cost less.
    """

    address: str  # that of the stage, or `scratch/<what>/<key>` where several stages share the shards
    rows: pa.Table
    table: Table
    compute: Callable[[pa.Table, Progress], pa.Table]
    multiple: int = 1

    @property
    def folder(self) -> str:
        """Address of the folder that holds the shards, each an artifact of its own."""
        return f"{self.address}/shards"


class Writer(NamedTuple):
    """The stage that computes shards, for `whyscore status`: its address and its label."""

    address: str
    label: str


def writer_of(shard: Manifest) -> Writer | None:
    """The stage that computed a shard; None for a shard of an earlier version, and for a checkpoint."""
    found = shard.arguments.get("writer")
    return Writer(found["address"], found["label"]) if isinstance(found, dict) else None


class Shard(NamedTuple):
    """A slice of the rows, and the address of the table that is computed from it."""

    address: str
    table: Table
    first_row: int
    rows: int


def cut(work: InShards, shard_rows: int) -> list[Shard]:
    """The shards of some work, in the order of its rows."""
    count, step = work.rows.num_rows, shard_rows * work.multiple
    spans = [(start, min(start + step, count)) for start in range(0, count, step)]
    return [Shard(f"{work.folder}/{start:08d}-{end:08d}", work.table, start, end - start) for start, end in spans]


def is_missing(store: ArtifactStore, shard: Shard) -> bool:
    """Whether a shard has to be computed: it is not in the store, damaged there, or its table has another version."""
    found = store.lookup(shard.address)
    return isinstance(found, Miss) or not _is_current(found, shard)


def compute_shard(store: ArtifactStore, work: InShards, shard: Shard, progress: Progress, writer: Writer) -> None:
    """Compute one shard and publish it, unless the store has it."""
    found = store.lookup(shard.address)
    if isinstance(found, Manifest):
        if _is_current(found, shard):
            progress.skip(shard.rows)
            return
        store.retract(shard.address, others=False)  # else publishing would keep it
    with store.attempt() as attempt:
        part = work.rows.slice(shard.first_row, shard.rows)
        attempt.write_table(work.table, work.compute(part, progress), file="shard")
        arguments = {"first_row": shard.first_row, "rows": shard.rows, "writer": writer._asdict()}
        store.publish(shard.address, attempt, arguments)


def compute_in_shards(store: ArtifactStore, work: InShards, shard_rows: int, writer: Writer) -> pa.Table:
    """The whole table, in the order of the rows: each shard is read from the store, or computed and published."""
    progress = Progress(writer.label, work.rows.num_rows)
    finished = []
    for shard in cut(work, shard_rows):
        compute_shard(store, work, shard, progress, writer)
        try:
            table = store.read_table(shard.address, "shard")
        except LostArtifactError:  # it was removed
            compute_shard(store, work, shard, Progress(writer.label, shard.rows), writer)
            table = store.read_table(shard.address, "shard")
        finished.append(table)
    return pa.concat_tables(finished) if finished else work.table.schema.empty_table()


def _is_current(found: Manifest, shard: Shard) -> bool:
    """Whether a shard's table has the current version; an old manifest without a version means version 1."""
    return found.tables.get(shard.table.name, 1) == shard.table.version
