"""The files of a model: where they are, fetched once when they are not here, and what they hold."""

import hashlib
import json
from pathlib import Path

from pipeline_lib.errors import ModelError
from pipeline_lib.store.manifest import sha256_file

SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
MODEL_FILES = (*SMALL_FILES, "*.safetensors")
"""All that belongs to a model; only safetensors weights are read, and no code."""


def model_folder(name: str, location: str, revision: str | None, fingerprint: str, *, weights: bool = True) -> Path:
    """The local folder of a model that was resolved before; what is missing is fetched, weights only if asked for.

    Raises `ModelError` when it cannot be had, or when a bucket's files are no longer those that were resolved.
    """
    if is_remote(location):
        from pipeline_lib.vlm.bucket import fetch_folder

        folder = fetch_folder(location)
        if folder_fingerprint(folder) != fingerprint:
            raise ModelError(f"model {name}: its files have changed since this run began; run the recipe again")
        return folder
    if Path(location).is_dir():
        return Path(location)
    from pipeline_lib.vlm.hub import hub_folder

    return hub_folder(location, revision or fingerprint, weights=weights)


def is_remote(location: str) -> bool:
    """Whether a location is a URL such as s3://bucket/prefix rather than a directory or a hub id."""
    return "://" in location


def folder_fingerprint(folder: Path) -> str:
    """Digest of the names and contents of a model's files, the same wherever they lie."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def missing_weights(folder: Path) -> list[str]:
    """Names of weight files that should be in a folder and are not; one that stands for all when there are none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index} is damaged: {error!r}; fetch the model again") from error
        return [name for name in names if not (folder / name).is_file()]
    return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
