"""A long stage in shards: what is done is not done again, and the cut does not matter."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.shards import compute_in_shards

ROWS = pa.table({"n": list(range(10))})
SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("square", pa.int64(), nullable=False)])
AT = "steps/generate/k"


class Squares:
    """Counts the rows it was given and may fail at one."""

    def __init__(self, fail_at: int | None = None):
        self.seen: list[int] = []
        self.fail_at = fail_at

    def __call__(self, part: pa.Table) -> pa.Table:
        values = part["n"].to_pylist()
        if self.fail_at in values:
            raise RuntimeError("killed")
        self.seen += values
        return pa.table({"square": [n * n for n in values], "n": values})


def run(store: ArtifactStore, compute: Squares, shard_rows: int, rows: pa.Table = ROWS) -> tuple[pa.Table, Progress]:
    progress = Progress("squares", rows.num_rows)
    return compute_in_shards(store, AT, rows, shard_rows, SCHEMA, compute, progress), progress


@pytest.mark.parametrize("shard_rows", [1, 3, 10, 100])
def test_every_cut_gives_the_same_table(tmp_path: Path, shard_rows: int) -> None:
    table, _ = run(ArtifactStore(str(tmp_path)), Squares(), shard_rows)
    assert table.equals(pa.table({"n": range(10), "square": [n * n for n in range(10)]}).cast(SCHEMA))


def test_a_killed_stage_computes_only_what_is_missing(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(RuntimeError, match="killed"):
        run(store, Squares(fail_at=7), 3)
    again = Squares()
    table, progress = run(store, again, 3)
    assert again.seen == [6, 7, 8, 9] and progress.skipped == 6
    assert table["square"].to_pylist() == [n * n for n in range(10)]
    once_more = Squares()
    assert run(store, once_more, 3)[0].equals(table) and once_more.seen == []
    assert run(store, Squares(), 4)[0].equals(table)


def test_a_torn_shard_is_computed_again(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    table, _ = run(store, Squares(), 3)
    shard = f"{AT}/shards/{store.children(f'{AT}/shards')[1]}"
    next(Path(store.path(shard)).glob("*/shard.parquet")).write_bytes(b"torn")
    again = Squares()
    assert run(store, again, 3)[0].equals(table) and again.seen == [3, 4, 5]


def test_no_rows_give_an_empty_table_of_the_schema(tmp_path: Path) -> None:
    table, _ = run(ArtifactStore(str(tmp_path)), Squares(), 3, ROWS.slice(0, 0))
    assert table.schema == SCHEMA and table.num_rows == 0
