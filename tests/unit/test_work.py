"""A running stage says in its manifest where its scratch lies, and in its shards whose they are."""

from pathlib import Path

import pyarrow as pa

from pipeline_lib.config.base import Runtime
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore, Manifest
from pipeline_lib.store.shards import InShards, writer_of
from pipeline_lib.tables.table import Table
from tasks.stage import Work

TABLE = Table("numbers", 1, pa.schema([pa.field("n", pa.int64())]))


def numbers(work: Work, address: str) -> InShards:
    def compute(part: pa.Table, progress: Progress) -> pa.Table:
        progress.advance(part.num_rows)
        return part

    return InShards(address, pa.table({"n": range(5)}), TABLE, compute)


def test_scratch_is_in_the_manifest_and_the_stage_in_its_shards(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    own, shared = "steps/count/k", "scratch/numbers/k"
    with store.attempt() as attempt:
        work = Work(store, own, attempt, Runtime(shard_rows=2), "ite-1 count")
        for address in (own, shared):
            assert work.in_shards(numbers, address)["n"].to_pylist() == list(range(5))
        work.note_scratch(f"{own}/checkpoints")
        (attempt.folder / "sum.txt").write_text("10")
        manifest = store.publish(own, attempt, {})
    assert manifest.scratch == [f"{shared}/shards", f"{own}/checkpoints", f"{own}/shards"]
    shard = store.lookup(f"{shared}/shards/00000000-00000002")
    assert isinstance(shard, Manifest) and writer_of(shard) == (own, "ite-1 count")
