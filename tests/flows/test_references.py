"""Prefect's record of a stage's result is made from the cache key alone."""

import json

import pytest

from tasks.stage.references import ArtifactReferences

KEY = "0123456789abcdef" * 4


def test_a_cache_key_gives_its_reference_and_writing_keeps_nothing(tmp_path):
    block = ArtifactReferences()
    assert block.write_path(f"train_score-{KEY}", b"anything") is None
    record = json.loads(block.read_path(f"train_score-{KEY}"))
    assert record["metadata"]["serializer"]["type"] == "json"
    assert json.loads(record["result"])["data"] == {"stage": "train_score", "key": KEY}


@pytest.mark.parametrize("name", ["", KEY, f"train_score-{KEY}x", f"../train_score-{KEY}", f"Train-{KEY}", "a-b"])
def test_no_other_name_has_a_record(name):
    with pytest.raises(FileNotFoundError):
        ArtifactReferences().read_path(name)
