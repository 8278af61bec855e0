"""Reference to a model that a stage uses, without loading it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config.base import FromRun, Model
from pipeline_lib.errors import ModelError, StoreError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.key import ArtifactRef
from pipeline_lib.store.runs import names, read_run
from pipeline_lib.vlm.weights import folder_fingerprint, is_remote, model_folder

BUNDLED = Path(__file__).parents[1] / "demo" / "model"


class ModelRef(BaseModel):
    """A base VLM, its settings, and the adapter on top of it (None: the base alone)."""

    model_config = ConfigDict(frozen=True)

    name: str  # as the recipe gives it, for people
    location: str  # hub id, directory or s3:// prefix
    revision: str | None
    fingerprint: str  # commit on the hub, or digest of a directory's files
    dtype: str
    resize_px: int
    max_tiles: int | None = None
    folded: tuple[ArtifactRef, ...] = ()  # adapters that are part of the base, in the order in which they were trained
    adapter: ArtifactRef | None = None

    def key_fields(self) -> dict[str, Any]:
        """Everything that changes the model's answers; the place of its files does not."""
        return self.model_dump(exclude={"name", "location", "revision", "folded", "adapter"}) | {
            **({"folded": list(self.folded)} if self.folded else {}),
            "adapter": self.adapter,
        }

    def folder(self, *, weights: bool = True) -> Path:
        """The local folder of the base's files, fetched if needed; `weights=False` fetches no weights."""
        return model_folder(self.name, self.location, self.revision, self.fingerprint, weights=weights)

    def bare(self) -> "ModelRef":
        """The base without any adapter."""
        return self.model_copy(update={"adapter": None})

    def with_adapter(self, adapter: ArtifactRef) -> "ModelRef":
        """The same base under another adapter."""
        return self.model_copy(update={"adapter": adapter})


def resolve_model(model: Model, store: ArtifactStore | None = None) -> ModelRef:
    """Find the base model that a recipe names, and the digest of its content.

    A model in a bucket is copied here for it; one of another run is looked for in `store`. Raises `ModelError` for a
    directory without a model, or a hub id without the commit that pins it, `StoreError` when there is no such run.
    """
    if model.from_run is not None:
        assert store is not None
        return _model_of_run(model, model.from_run, store)
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


def _model_of_run(model: Model, wanted: FromRun, store: ArtifactStore) -> ModelRef:
    """The base of another run with that run's adapter folded in, and the settings of this recipe."""
    if model.revision is not None:
        raise ModelError("model.revision does not apply to model.from_run; remove it")
    run = read_run(store, wanted.name)
    if run is None:
        known = ", ".join(names(store)) or "none"
        raise StoreError(f"model.from_run: {store.root} has no run {wanted.name} with a model; its runs are {known}")
    roles = {found.name: found.role("adapter") for found in run.models()}
    adapter = run.find("model" if wanted.model is None else roles.get(wanted.model, "-"))
    if adapter is None:
        raise StoreError(
            f"model.from_run: run {wanted.name} has no model {wanted.model or 'yet'}; it has evaluated"
            f" {', '.join(roles) or 'none'}"
        )
    fields = run.fields["model"] | model.model_dump(include={"dtype", "resize_px", "max_tiles", "max_new_tokens"})
    base = resolve_model(Model.model_validate(fields), store)
    name = f"{base.name} ({wanted.model or 'the model'} of run {wanted.name})"
    return base.model_copy(update={"name": name, "folded": (*base.folded, adapter)})


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
        return f"{ask}. The commit of main is not known here: {error}"
