"""Where runs stand, from a folder and from a bucket alike."""

import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline_lib.checks.status import store_status
from pipeline_lib.errors import StoreError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.tables import schemas

SHARD = pa.schema([pa.field("image", pa.string())])


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"))
    request.getfixturevalue("s3_server")
    bucket = f"status-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").call_s3("create_bucket", Bucket=bucket)
    return ArtifactStore(f"s3://{bucket}/prefix")


def measured(store: ArtifactStore, run: str, at: str, stage: str, metric: str, value: float) -> None:
    """A published stage with one figure, and the run's pointer to it."""
    key = f"{run}-{at}-{metric}".replace("/", "-")
    row = {"split": "test", "metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "rows": 9}
    with store.attempt() as attempt:
        attempt.write_table("metrics", pa.Table.from_pylist([row]), schemas.METRICS)
        store.publish(f"steps/{stage}/{key}", attempt, {})
    store.write_pointer(f"runs/{run}/{at}.json", {"stage": stage, "key": key})


def part(store: ArtifactStore, address: str) -> None:
    with store.attempt() as attempt:
        attempt.write_table("shard", pa.table({"image": ["a"]}), SHARD)
        store.publish(address, attempt, {})


def test_the_newest_model_of_each_run_and_what_is_under_way(store: ArtifactStore) -> None:
    measured(store, "one", "iteration-01/score/predictions", "evaluate", "srcc_fitted", 0.5)
    measured(store, "one", "iteration-02/merged/predictions", "evaluate", "srcc_fitted", 0.7)
    measured(store, "one", "iteration-02/consistency/predictions", "evaluate", "srcc_fitted", 0.6)
    measured(store, "one", "iteration-02/merged/verdicts", "judge", "cons", 2.5)
    measured(store, "two", "iteration-00/zero-shot/predictions", "evaluate", "srcc_fitted", 0.1)
    part(store, "steps/generate/0123456789/shards/00000000-00000016")
    part(store, "steps/generate/0123456789/shards/00000016-00000020")
    part(store, "steps/train_score/abcdef0123/checkpoints/step-00000040")
    part(store, "answers/fedcba9876/val-test/shards/00000000-00000016")
    said = store_status(store)
    assert "one: not finished, iteration 2\n  ite-2 merged: SRCC 0.700 [0.60 0.80], Cons 2.500" in said
    assert "two: not finished, iteration 0\n  zero-shot: SRCC 0.100" in said
    assert "generate 01234567: 20 images in 2 shard(s), written" in said
    assert "train_score abcdef01: a checkpoint of step 40, written" in said
    assert "evaluate fedcba98: 16 images in 1 shard(s)" in said
    assert "two" not in store_status(store, ["one"])


def test_a_report_that_is_older_than_what_followed_does_not_make_a_run_finished(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    measured(store, "one", "iteration-01/score/predictions", "evaluate", "srcc_fitted", 0.5)
    store.write_pointer("runs/one/report.json", {"stage": "report", "key": "r"})
    assert "one: finished, iteration 1" in store_status(store)
    measured(store, "one", "iteration-02/score/predictions", "evaluate", "srcc_fitted", 0.6)
    assert "one: not finished, iteration 2" in store_status(store)


def test_a_run_that_is_not_there(store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="nothing of a run one yet"):
        store_status(store, ["one"])
