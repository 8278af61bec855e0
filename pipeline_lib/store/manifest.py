"""The manifest: an artifact exists when its manifest does."""

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline_lib.store.key import canonical_json

MAIN_PACKAGES = (
    *("torch", "transformers", "tokenizers", "peft", "trl", "datasets", "pillow", "numpy", "pyarrow", "scikit-learn"),
    *("prefect", "whyscore"),
)


class OutsideError(ValueError):
    """A path outside the folder that it is relative to."""


def inside(path: str) -> str:
    """The path itself; raises `OutsideError` unless it is relative, with `/` between plain names.

    Names `.`, `..` and empty ones are refused, and so are backslashes, colons and control characters, which have a
    meaning on other systems.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(ord(sign) < 32 or sign in "\\:" for sign in path):
        raise OutsideError(f"{path!r} is not a relative path of plain names")
    return path


Inside = Annotated[str, AfterValidator(inside)]


LAST_SCHEMA_VERSION = 2
"""The last version that all tables had in common; each table of such a manifest is version 1."""


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The content of an artifact and its origin; `files` is relative to the folder `attempt` inside the artifact.

    Anyone who can write to the store can write a manifest. So its paths are checked at each reading: no file may lie
    outside the artifact, or outside the folder that the artifact is copied to. `seal` is the digest of all other
    fields and finds damage, not intent: whoever writes a manifest can write its seal. Manifests of earlier versions
    have none.
    """

    model_config = ConfigDict(frozen=True)

    address: Inside
    attempt: str = Field(pattern=r"^[0-9a-f]{12}$")
    files: dict[Inside, FileEntry]
    tables: dict[str, int]  # version of each table, by its name
    rows: dict[str, int]
    scratch: list[Inside] = []  # folders of shards and checkpoints that it was computed from
    schema_version: int | None = None  # of manifests written before each table had its own version
    arguments: dict[str, Any]
    seconds: float
    published: str | None = None  # time in UTC, ISO 8601; earlier versions did not write it
    device: str | None = None  # what the model of the stage ran on: cpu, mps or the name of a GPU; None: no model
    device_count: int = 1
    versions: dict[str, str]
    git_commit: str | None
    host: str
    seal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_sealed(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("seal") is not None and fields["seal"] != _seal(fields):
            raise ValueError("it is not as it was published")
        return fields

    @model_validator(mode="before")
    @classmethod
    def _tables_of_before(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "tables" not in fields and "schema_version" in fields:
            return {**fields, "tables": dict.fromkeys(fields.get("rows") or (), 1)}
        return fields

    def sealed(self) -> "Manifest":
        """The same with its seal."""
        return self.model_copy(update={"seal": _seal(json.loads(self.model_dump_json()))})

    @property
    def digest(self) -> str:
        """Sha256 over names and digests of the files: equal content gives an equal digest, whoever wrote it."""
        lines = [f"{name} {entry.sha256}" for name, entry in sorted(self.files.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _seal(fields: dict[str, Any]) -> str:
    """The seal of a manifest as it is in JSON, so that a later version with further fields finds the same."""
    rest = {name: value for name, value in fields.items() if name != "seal"}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Sha256 of a local file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def environment() -> dict[str, Any]:
    """Package versions, git commit and host that made an artifact. Not part of any key."""
    versions = {"python": platform.python_version()}
    for package in MAIN_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "git_commit": _git_commit(), "host": platform.node()}


def _git_commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
