"""Long stages in shards: what is finished survives a crash, and the parts add up to one table however they are cut."""

from collections.abc import Callable

import pyarrow as pa

from pipeline_lib.progress import Progress
from pipeline_lib.store.store import ArtifactStore, Miss


def compute_in_shards(
    store: ArtifactStore,
    address: str,
    rows: pa.Table,
    shard_rows: int,
    schema: pa.Schema,
    compute: Callable[[pa.Table], pa.Table],
    progress: Progress,
) -> pa.Table:
    """Run `compute` on slices of `rows` and concatenate what it returns, in the order of the rows.

    Each slice is published below `address` as soon as it is done and taken from there when it is there already.
    `compute` counts its own rows in `progress`.
    """
    finished = []
    for start in range(0, rows.num_rows, shard_rows):
        part = rows.slice(start, shard_rows)
        shard = f"{address}/shards/{start:08d}-{start + part.num_rows:08d}"
        if isinstance(store.lookup(shard), Miss):
            with store.attempt() as attempt:
                attempt.write_table("shard", compute(part), schema)
                store.publish(shard, attempt, arguments={"first_row": start, "rows": part.num_rows})
        else:
            progress.skip(part.num_rows)
        finished.append(store.read_table(shard, "shard"))
    return pa.concat_tables(finished) if finished else schema.empty_table()
