"""The manifest: the file whose presence makes an artifact exist."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

MAIN_PACKAGES = (
    *("torch", "transformers", "tokenizers", "peft", "trl", "datasets", "pillow", "numpy", "pyarrow", "scikit-learn"),
    *("prefect", "whyscore"),
)


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class Manifest(BaseModel):
    """What was published, from what, by what; `files` is relative to the folder `attempt` inside the artifact."""

    model_config = ConfigDict(frozen=True)

    address: str
    attempt: str
    schema_version: int
    files: dict[str, FileEntry]
    rows: dict[str, int]
    arguments: dict[str, Any]
    seconds: float
    versions: dict[str, str]
    git_commit: str | None
    host: str

    @property
    def digest(self) -> str:
        """Sha256 over names and digests of the files: equal content, equal digest, whoever wrote it and when."""
        lines = [f"{name} {entry.sha256}" for name, entry in sorted(self.files.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Sha256 of a local file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def environment() -> dict[str, Any]:
    """Package versions, git commit and host: who made an artifact. Not part of any key."""
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
