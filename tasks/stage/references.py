"""Prefect's storage for results of stages, which stores nothing: a cache key tells the result.

Prefect reads a result record as whatever serializer the record itself names, which may run code. So no record is ever
written or read. Prefect's cache key of a stage is `<stage>-<key>`; this block turns it into the record that holds
`ArtifactRef(stage, key)`. A stage asks the store before each call whether the artifact exists.
"""

import functools
import re

from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect.filesystems import WritableFileSystem
from prefect.serializers import JSONSerializer

from pipeline_lib.store import ArtifactRef

_CACHE_KEY = re.compile(r"([a-z][a-z0-9_]*)-([0-9a-f]{64})")


class ArtifactReferences(WritableFileSystem):
    """Makes the references that stages return from their cache keys; stores nothing."""

    _block_type_name = "WhyScore artifact references"

    def read_path(self, path: str, *, _sync: bool = True) -> bytes:  # type: ignore[override]
        """The record of a cache key; raises `FileNotFoundError` for any other name."""
        match = _CACHE_KEY.fullmatch(path)
        if match is None:
            raise FileNotFoundError(f"{path} is not the cache key of a stage")
        record = ResultRecord[ArtifactRef](
            result=ArtifactRef(stage=match[1], key=match[2]),
            metadata=ResultRecordMetadata(storage_key=path, serializer=JSONSerializer()),
        )
        return record.serialize()

    def write_path(self, path: str, content: bytes, *, _sync: bool = True) -> None:  # type: ignore[override]
        """Keep nothing."""


@functools.cache
def artifact_references() -> ArtifactReferences:
    """The block, known to the Prefect server of this process: Prefect takes no other for a task's results."""
    block = ArtifactReferences()
    block.save("whyscore-artifact-references", overwrite=True)
    return block
