"""Which model a stage uses, without loading it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config.base import Model
from pipeline_lib.errors import ModelError
from pipeline_lib.store.key import ArtifactRef
from pipeline_lib.vlm.weights import folder_fingerprint, is_remote, model_folder

BUNDLED = Path(__file__).parents[1] / "demo" / "model"


class ModelRef(BaseModel):
    """A base VLM, how it is driven, and the adapter on top of it (None: the base alone)."""

    model_config = ConfigDict(frozen=True)

    name: str  # as the recipe gives it, for people
    location: str  # hub id, directory or s3:// prefix
    revision: str | None
    fingerprint: str  # commit on the hub, or digest of a directory's files
    dtype: str
    resize_px: int
    max_tiles: int | None = None
    adapter: ArtifactRef | None = None

    def key_fields(self) -> dict[str, Any]:
        """Everything that changes what the model says; where its files lie does not."""
        return self.model_dump(exclude={"name", "location", "revision", "adapter"}) | {"adapter": self.adapter}

    def folder(self, *, weights: bool = True) -> Path:
        """The local folder of the base's files, fetched if need be; without weights while only facts are asked for."""
        return model_folder(self.name, self.location, self.revision, self.fingerprint, weights=weights)

    def bare(self) -> "ModelRef":
        """The base without any adapter."""
        return self.model_copy(update={"adapter": None})

    def with_adapter(self, adapter: ArtifactRef) -> "ModelRef":
        """The same base under another adapter."""
        return self.model_copy(update={"adapter": adapter})


def resolve_model(model: Model) -> ModelRef:
    """Find the base model that a recipe names and pin down its content.

    A model in a bucket is copied here for it. Raises `ModelError` for a directory without a model, or a hub id without
    the commit that pins it.
    """
    location = str(BUNDLED) if model.id == "bundled" else model.id
    if is_remote(location) or Path(location).is_dir():
        if model.revision is not None:
            raise ModelError(f"model.id {model.id}: only a hub id has a revision; remove model.revision")
        fingerprint = _directory_fingerprint(location)
    elif location.startswith((".", "/", "~")) or location.count("/") != 1:
        raise ModelError(f"model.id {model.id}: no such directory, and no hub id of the form owner/name")
    elif model.revision is None:
        raise ModelError(_ask_for_revision(model.id))
    else:
        fingerprint = model.revision
    return ModelRef(
        name=model.id,
        location=location,
        revision=model.revision,
        fingerprint=fingerprint,
        dtype=model.dtype,
        resize_px=model.resize_px,
        max_tiles=model.max_tiles,
    )


def _directory_fingerprint(location: str) -> str:
    if is_remote(location):
        from pipeline_lib.vlm.bucket import fetch_folder

        return folder_fingerprint(fetch_folder(location))
    if not (Path(location) / "config.json").exists():
        raise ModelError(f"model.id {location}: the directory has no config.json, so it is no saved model")
    return folder_fingerprint(Path(location))


def _ask_for_revision(model_id: str) -> str:
    from pipeline_lib.vlm.hub import current_commit

    ask = f"model.id {model_id}: give model.revision, the 40 hex digits of a commit, so that runs repeat"
    try:
        return f'{ask}; main is now at "{current_commit(model_id)}"'
    except ModelError as error:
        return f"{ask}. What main is at is not known here: {error}"
