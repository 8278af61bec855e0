"""The key of an artifact: the digest of everything that can change its content."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_lib.errors import StoreError


class ArtifactRef(BaseModel):
    """A pointer to one stage's output; small enough to pass between tasks and to keep in a database.

    Neither part can hold a slash or a dot, so that a pointer never leaves the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    key: str = Field(pattern=r"^[0-9A-Za-z_-]+$")

    @property
    def address(self) -> str:
        """Folder of the artifact inside the store."""
        return f"steps/{self.stage}/{self.key}"


def read_reference(pointer: dict[str, Any]) -> ArtifactRef:
    """The artifact that a pointer of the store names; raises `StoreError` when it names none, or one outside."""
    try:
        return ArtifactRef(stage=pointer["stage"], key=pointer["key"])
    except (KeyError, ValidationError) as error:
        raise StoreError(
            f"a pointer in the store holds {str(pointer)[:200]}, which names no artifact of it; run the recipe again,"
            " which writes its pointers again"
        ) from error


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal text; refuses NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_fields(value: Any) -> Any:
    """The part of a key that comes from one argument of the stage.

    A reference contributes the key of its artifact; a model with a `key_fields` method what that returns (a local path
    is not part of a model's identity, its weights are); any other pydantic model all its fields.
    """
    if isinstance(value, ArtifactRef):
        return {"stage": value.stage, "key": value.key}
    if isinstance(value, BaseModel):
        own = getattr(value, "key_fields", None)
        return (
            key_fields(own()) if own else {name: key_fields(getattr(value, name)) for name in type(value).model_fields}
        )
    if isinstance(value, dict):
        return {str(name): key_fields(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [key_fields(item) for item in value]
    return value


def artifact_key(stage: str, version: int, arguments: dict[str, Any]) -> str:
    """Sha256 (64 hex digits) of the stage, its version and its arguments in canonical JSON."""
    material = {"stage": stage, "version": version, "arguments": key_fields(arguments)}
    return hashlib.sha256(canonical_json(material).encode()).hexdigest()
