"""Tables are put into their schema or refused, never bent."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.errors import StoreError
from pipeline_lib.methods.self_improve.tables import CONSISTENCY_PAIRS, SCORE_PAIRS
from pipeline_lib.tables.pairs import PREFERENCE_PAIRS
from pipeline_lib.tables.table import Table, conform, write_parquet

SCHEMA = pa.schema([pa.field("image", pa.string(), nullable=False), pa.field("bin", pa.int8())])


def test_columns_are_put_in_order_and_cast() -> None:
    table = conform(pa.table({"bin": [3, None], "image": ["a", "b"]}), SCHEMA)
    assert table.schema == SCHEMA


def test_further_columns_are_kept_behind_only_when_allowed() -> None:
    table = pa.table({"mood": ["calm"], "bin": [1], "image": ["a"]})
    with pytest.raises(StoreError, match=r"column.s. mood"):
        conform(table, SCHEMA)
    assert conform(table, SCHEMA, extra_columns=True).column_names == ["image", "bin", "mood"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a"]}, r"lacks column\(s\) bin"),
        ({"image": [None], "bin": [1]}, r"image holds 1 null"),
        ({"image": ["a"], "bin": [300]}, "does not fit its schema"),
        ({"image": ["a"], "bin": [1.5]}, "does not fit its schema"),
        ({"image": ["a"], "bin": ["many"]}, "does not fit its schema"),
        ({"image": ["a"], "bin": [[1]]}, "does not fit its schema"),
    ],
)
def test_what_does_not_fit_is_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        conform(pa.table(columns), SCHEMA)


def test_equal_tables_give_equal_bytes_however_they_are_cut(tmp_path: Path) -> None:
    table = pa.table({"image": [f"{n}.jpg" for n in range(5000)], "bin": [n % 10 for n in range(5000)]})
    parts = pa.concat_tables([table.slice(start, 7) for start in range(0, 5000, 7)])
    marked = table.replace_schema_metadata({"made": "elsewhere"})
    written = []
    for name, given in (("a", table), ("b", parts), ("c", marked)):
        assert write_parquet(tmp_path / name, given, SCHEMA) == 5000
        written.append((tmp_path / name).read_bytes())
    assert pq.read_table(tmp_path / "b").equals(table.cast(SCHEMA))
    assert written[0] == written[1] == written[2]


def test_a_name_has_one_version() -> None:
    first = Table("a table of this test", 1, SCHEMA)
    assert Table("a table of this test", 1, pa.schema([])).version == first.version
    with pytest.raises(ValueError, match="a table of this test"):
        Table("a table of this test", 2, SCHEMA)


def test_score_pairs_are_preference_pairs_with_their_scores() -> None:
    for table in (SCORE_PAIRS, CONSISTENCY_PAIRS):
        assert [name for name in table.schema.names if name not in ("true_score", "wrong_score")] == (
            PREFERENCE_PAIRS.schema.names
        )
        assert table.schema.names[3:5] == ["true_score", "wrong_score"]
