"""A long stage in shards: what is done is not done again, and the cut does not matter."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.shards import InShards, Writer, compute_in_shards, compute_shard, cut, writer_of
from pipeline_lib.tables.table import KNOWN, Table

ROWS = pa.table({"n": list(range(10))})
SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("square", pa.int64(), nullable=False)])
TABLE = Table("squares", 1, SCHEMA)
WRITER = Writer("steps/generate/k", "ite-1 generate")
AT = "steps/generate/k"


class Squares:
    """Counts the rows it was given and may fail at one."""

    def __init__(self, fail_at: int | None = None):
        self.seen: list[int] = []
        self.progress: Progress | None = None
        self.fail_at = fail_at

    def __call__(self, part: pa.Table, progress: Progress) -> pa.Table:
        self.progress = progress
        values = part["n"].to_pylist()
        if self.fail_at in values:
            raise RuntimeError("killed")
        self.seen += values
        return pa.table({"square": [n * n for n in values], "n": values})


def run(store: ArtifactStore, compute: Squares, shard_rows: int, rows: pa.Table = ROWS, multiple: int = 1) -> pa.Table:
    return compute_in_shards(store, InShards(AT, rows, TABLE, compute, multiple), shard_rows, WRITER)


@pytest.mark.parametrize("shard_rows", [1, 3, 10, 100])
def test_every_cut_gives_the_same_table(tmp_path: Path, shard_rows: int) -> None:
    table = run(ArtifactStore(str(tmp_path)), Squares(), shard_rows)
    assert table.equals(pa.table({"n": range(10), "square": [n * n for n in range(10)]}).cast(SCHEMA))


def test_a_killed_stage_computes_only_what_is_missing(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(RuntimeError, match="killed"):
        run(store, Squares(fail_at=7), 3)
    again = Squares()
    table = run(store, again, 3)
    assert again.progress and again.seen == [6, 7, 8, 9] and again.progress.skipped == 6
    assert table["square"].to_pylist() == [n * n for n in range(10)]
    once_more = Squares()
    assert run(store, once_more, 3).equals(table) and once_more.seen == []
    assert run(store, Squares(), 4).equals(table)


@pytest.mark.parametrize("damage", ["torn", "other bytes of the same size"])
def test_a_damaged_shard_is_computed_again(tmp_path: Path, damage: str) -> None:
    store = ArtifactStore(str(tmp_path))
    table = run(store, Squares(), 3)
    shard = f"{AT}/shards/{store.children(f'{AT}/shards')[1]}"
    file = next(Path(store.path(shard)).glob("*/shard.parquet"))
    file.write_bytes(b"torn" if damage == "torn" else bytes(file.stat().st_size))
    again = Squares()
    assert run(store, again, 3).equals(table) and again.seen == [3, 4, 5]


def test_no_rows_give_an_empty_table_of_the_schema(tmp_path: Path) -> None:
    table = run(ArtifactStore(str(tmp_path)), Squares(), 3, ROWS.slice(0, 0))
    assert table.schema == SCHEMA and table.num_rows == 0


def test_others_may_compute_shards_in_any_order(tmp_path: Path) -> None:
    store, theirs, mine = ArtifactStore(str(tmp_path)), Squares(), Squares()
    shards = cut(InShards(AT, ROWS, TABLE, theirs), 4)
    assert [(shard.first_row, shard.rows) for shard in shards] == [(0, 4), (4, 4), (8, 2)]
    for shard in (shards[2], shards[0], shards[2]):
        compute_shard(store, InShards(AT, ROWS, TABLE, theirs), shard, Progress("theirs", shard.rows), WRITER)
    assert theirs.seen == [8, 9, 0, 1, 2, 3]
    assert run(store, mine, 4)["n"].to_pylist() == list(range(10)) and mine.seen == [4, 5, 6, 7]


def test_what_costs_less_is_cut_into_larger_shards(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    run(store, Squares(), 2, multiple=3)
    assert store.children(f"{AT}/shards") == ["00000000-00000006", "00000006-00000010"]


def test_shards_say_who_computed_them_and_for_which_table(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    run(store, Squares(), 4)
    for name in store.children(f"{AT}/shards"):
        shard = store.lookup(f"{AT}/shards/{name}")
        assert isinstance(shard, Manifest) and writer_of(shard) == WRITER and shard.tables == {"squares": 1}


@pytest.mark.parametrize("of_before", [False, True])
def test_shards_of_another_version_of_the_table_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_before: bool
) -> None:
    store = ArtifactStore(str(tmp_path))
    table = run(store, Squares(), 4)
    if of_before:  # its manifests know one version for all tables, and call this one by its file
        for path in tmp_path.rglob("manifest.json"):
            fields = json.loads(path.read_text())
            del fields["tables"], fields["scratch"], fields["arguments"]["writer"], fields["seal"]
            path.write_text(json.dumps(fields | {"schema_version": 2}))
    kept = Squares()
    assert run(store, kept, 4).equals(table) and kept.seen == []
    monkeypatch.setitem(KNOWN, "squares", 2)
    again = Squares()
    newer = InShards(AT, ROWS, Table("squares", 2, SCHEMA), again)
    assert compute_in_shards(store, newer, 4, WRITER).equals(table) and again.seen == list(range(10))
    assert compute_in_shards(store, newer, 4, WRITER).equals(table) and len(again.seen) == 10
