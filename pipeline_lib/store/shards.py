"""Long stages in shards: what is finished survives a crash, and the parts add up to one table however they are cut."""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from pipeline_lib.progress import Progress
from pipeline_lib.store.store import ArtifactStore, Miss


class InShards(NamedTuple):
    """A long table that is computed from others' rows, each by itself; `compute` counts its rows in the progress.

    A shard holds `multiple` times the rows that a shard of images has: more of what costs less.
    """

    address: str  # its shards are artifacts below
    rows: pa.Table
    schema: pa.Schema
    compute: Callable[[pa.Table, Progress], pa.Table]
    multiple: int = 1


class Shard(NamedTuple):
    """A slice of the rows, and where what is computed from it is published."""

    address: str
    first_row: int
    rows: int


def cut(work: InShards, shard_rows: int) -> list[Shard]:
    """The shards of some work, in the order of its rows."""
    count, step = work.rows.num_rows, shard_rows * work.multiple
    spans = [(start, min(start + step, count)) for start in range(0, count, step)]
    return [Shard(f"{work.address}/shards/{start:08d}-{end:08d}", start, end - start) for start, end in spans]


def is_missing(store: ArtifactStore, shard: Shard) -> bool:
    """Whether a shard has to be computed: it is not in the store, or damaged there."""
    return isinstance(store.lookup(shard.address), Miss)


def compute_shard(store: ArtifactStore, work: InShards, shard: Shard, progress: Progress) -> None:
    """Compute one shard and publish it; one that is there already is left as it is."""
    if not is_missing(store, shard):
        progress.skip(shard.rows)
        return
    with store.attempt() as attempt:
        part = work.rows.slice(shard.first_row, shard.rows)
        attempt.write_table("shard", work.compute(part, progress), work.schema)
        store.publish(shard.address, attempt, arguments={"first_row": shard.first_row, "rows": shard.rows})


def compute_in_shards(store: ArtifactStore, work: InShards, shard_rows: int, label: str) -> pa.Table:
    """The whole table, in the order of the rows: each shard published as soon as it is done, or taken from there."""
    progress = Progress(label, work.rows.num_rows)
    finished = []
    for shard in cut(work, shard_rows):
        compute_shard(store, work, shard, progress)
        finished.append(store.read_table(shard.address, "shard"))
    return pa.concat_tables(finished) if finished else work.schema.empty_table()
