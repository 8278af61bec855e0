"""Content-keyed artifacts: `ArtifactRef` names one, `ArtifactStore` publishes, finds and verifies them.

A store is a folder or an S3 bucket. Long stages publish shards; only `runs` knows the contents of a run's folder.
May import errors, progress, sampling and tables. It does not know a method.
"""

from pipeline_lib.store.key import ArtifactRef, artifact_key, canonical_json
from pipeline_lib.store.manifest import FileEntry, Manifest
from pipeline_lib.store.store import ArtifactStore, Miss

__all__ = ["ArtifactRef", "ArtifactStore", "FileEntry", "Manifest", "Miss", "artifact_key", "canonical_json"]
