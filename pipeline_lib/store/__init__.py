"""Content-keyed artifacts: `ArtifactRef` names one, `ArtifactStore` publishes, finds and verifies them."""

from pipeline_lib.store.key import ArtifactRef, artifact_key, canonical_json
from pipeline_lib.store.manifest import FileEntry, Manifest
from pipeline_lib.store.store import ArtifactStore, Miss

__all__ = ["ArtifactRef", "ArtifactStore", "FileEntry", "Manifest", "Miss", "artifact_key", "canonical_json"]
