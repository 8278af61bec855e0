"""The queries of docs/artifacts.md, on a folder and on a bucket."""

import re
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pytest

from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import read_run
from tests.small_run import Watched

PAGE = (Path(__file__).parents[2] / "docs/artifacts.md").read_text(encoding="utf-8")
VIEWS, *QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
TITLES = re.findall(r"^\*\*(\d+)\. ", PAGE, re.MULTILINE)


@pytest.fixture(scope="module", params=["folder", "bucket"])
def database(
    request: pytest.FixtureRequest, finished: tuple[Path, Watched]
) -> tuple[duckdb.DuckDBPyConnection, ArtifactStore]:
    store = str(finished[0] / "store")
    connection = duckdb.connect()
    if request.param == "bucket":
        request.getfixturevalue("s3_server")
        s3 = fsspec.filesystem("s3")
        s3.mkdir("artifacts-page")
        for part in ("steps", "runs"):
            s3.put(f"{store}/{part}", f"artifacts-page/prefix/{part}", recursive=True)
        connection.register_filesystem(s3)
        store = "s3://artifacts-page/prefix"
    connection.execute(f"SET VARIABLE store = '{store}'")
    connection.execute(VIEWS)
    return connection, ArtifactStore(store)


def rows(database: Any, number: int) -> list[dict[str, Any]]:
    answer = database[0].sql(QUERIES[number - 1])
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def test_every_query_has_an_answer(database: Any) -> None:
    assert len(QUERIES) == len(TITLES) == 12
    assert [number for number in range(1, 13) if not rows(database, number)] == []


def test_the_answers_are_what_the_store_reads(database: Any) -> None:
    store = database[1]
    run = read_run(store, "small")
    assert run is not None
    [merged] = [model for model in run.models() if model == (2, "merged")]

    def read(role: str, table: str) -> list[dict[str, Any]]:
        found = run.find(merged.role(role))
        assert found is not None
        kept: list[dict[str, Any]] = store.read_table(found.address, table).to_pylist()
        return kept

    measured = {
        row["metric"]: row["value"]
        for row in rows(database, 1)
        if (row["iteration"], row["kind"]) == (merged.iteration, "merged")
    }
    own = {row["metric"]: row["value"] for row in read("predictions", "metrics") if row["split"] == "test"}
    expected = {name: own[name] for name in ("mae_stated", "srcc_stated", "srcc_unfitted")}
    assert measured == pytest.approx(expected, abs=6e-4)

    test = [row for row in read("predictions", "predictions") if row["split"] == "test"]
    worst = max(test, key=lambda row: abs(row["predicted_unfitted"] - row["score"]))
    assert rows(database, 2)[0]["image"] == worst["image"]

    widths = [row["width"] for row in rows(database, 5) if row["width"] is not None]
    assert widths == sorted(widths, reverse=True)

    verdicts = [row for row in read("verdicts", "verdicts") if row["recovered_score"] is not None]
    apart = max(abs(row["recovered_score"] - row["stated_score"]) for row in verdicts)
    found = rows(database, 3)
    assert abs(found[0]["judge_reads"] - found[0]["stated_score"]) >= apart - 0.05

    spoken = [row for row in rows(database, 8) if (row["iteration"], row["kind"]) == (merged.iteration, "merged")]
    assert sum(row["images"] for row in spoken) == len(test)
    trained = [row["steps"] for row in rows(database, 11)]
    assert trained and np.all(np.array(trained) > 0)
