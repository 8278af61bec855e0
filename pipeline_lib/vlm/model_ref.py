"""Which model a stage uses, without loading it."""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.errors import ModelError
from pipeline_lib.recipe import Model
from pipeline_lib.store.key import ArtifactRef
from pipeline_lib.store.manifest import sha256_file

BUNDLED = Path(__file__).parents[1] / "demo" / "model"

_PARTS = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")


class ModelRef(BaseModel):
    """A base VLM, how it is driven, and the adapter on top of it (None: the base alone)."""

    model_config = ConfigDict(frozen=True)

    name: str  # as the recipe gives it, for people
    location: str  # hub id or directory
    revision: str | None
    fingerprint: str  # commit on the hub, or digest of a directory's files
    dtype: str
    resize_px: int
    max_new_tokens: int
    adapter: ArtifactRef | None = None

    def key_fields(self) -> dict[str, Any]:
        """Everything that changes what the model says; where its files lie does not."""
        return self.model_dump(exclude={"name", "location", "revision", "adapter"}) | {"adapter": self.adapter}

    def with_adapter(self, adapter: ArtifactRef) -> "ModelRef":
        """The same base under another adapter."""
        return self.model_copy(update={"adapter": adapter})


def resolve_model(model: Model) -> ModelRef:
    """Find the base model that a recipe names and pin down its content.

    Raises `ModelError` for a directory without a model, or a hub id without the commit that pins it.
    """
    location = str(BUNDLED) if model.id == "bundled" else model.id
    if Path(location).is_dir():
        if not (Path(location) / "config.json").exists():
            raise ModelError(f"model.id {model.id}: the directory has no config.json, so it is no saved model")
        fingerprint = _fingerprint(Path(location))
    elif location.startswith((".", "/", "~")) or location.count("/") != 1:
        raise ModelError(f"model.id {model.id}: no such directory, and no hub id of the form owner/name")
    elif model.revision is None:
        raise ModelError(
            f"model.id {model.id}: give model.revision, the 40 hex digits of a commit, so that runs repeat"
        )
    else:
        fingerprint = model.revision
    return ModelRef(
        name=model.id,
        location=location,
        revision=model.revision,
        fingerprint=fingerprint,
        dtype=model.dtype,
        resize_px=model.resize_px,
        max_new_tokens=model.max_new_tokens,
    )


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _PARTS for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
