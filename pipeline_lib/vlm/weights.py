"""The files of a model: find, fetch and check them."""

import hashlib
import json
import re
from functools import cache
from pathlib import Path

from pipeline_lib.errors import ModelError
from pipeline_lib.store.manifest import sha256_file

SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
MODEL_FILES = (*SMALL_FILES, "*.safetensors")
"""All that belongs to a model; only safetensors weights are read, and no code."""

TEMPLATES = "additional_chat_templates/*.jinja"
"""Read by transformers too, if a directory has them; not fetched from elsewhere."""

INDEX = "model.safetensors.index.json"

_SHARD = re.compile(r"[^/\\]+\.safetensors")


def model_folder(name: str, location: str, revision: str | None, fingerprint: str, *, weights: bool = True) -> Path:
    """The local folder of a model that was resolved before; what is missing is fetched, weights only if asked for.

    Raises `ModelError` when it cannot be had, or when files are not those that were resolved: they have changed since,
    or this is another machine, whose folder of the same name holds another model.
    """
    if is_remote(location):
        from pipeline_lib.vlm.bucket import fetch_folder

        return _checked(name, fetch_folder(location), fingerprint)
    if Path(location).is_dir():
        return _checked(name, Path(location), fingerprint) if weights else Path(location)
    from pipeline_lib.vlm.hub import hub_folder

    return hub_folder(location, revision or fingerprint, weights=weights)


def _checked(name: str, folder: Path, fingerprint: str) -> Path:
    if folder_fingerprint(folder) != fingerprint:
        raise ModelError(
            f"model {name}: the files in {folder} are not those that this run began with. If they have changed, run the"
            " recipe again; if several machines take part in the run, give all of them the same model"
        )
    return folder


def is_remote(location: str) -> bool:
    """Whether a location is a URL such as s3://bucket/prefix rather than a directory or a hub id."""
    return "://" in location


def folder_fingerprint(folder: Path) -> str:
    """Digest of the names and contents of all files that loading a model reads, the same in any folder.

    Raises `ModelError` when loading would read others: an adapter of transformers' own beside the base, or weights that
    the index names elsewhere or in another format.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json), which transformers would put on the base unasked; give"
            " model.id the directory of the base, or a merged model"
        )
    missing_weights(folder)
    paths = sorted({path for pattern in (*MODEL_FILES, TEMPLATES) for path in folder.glob(pattern)})
    facts = [(path, path.stat()) for path in paths]
    return _digest(folder, tuple((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in facts))


@cache  # weights are read for it, which takes seconds a gigabyte
def _digest(folder: Path, files: tuple[tuple[Path, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, *_ in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def missing_weights(folder: Path) -> list[str]:
    """Names of the weight files that a folder lacks; one name if it has none at all.

    Raises `ModelError` when the index of the weights is damaged, or names other files than safetensors in the folder.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index} is damaged: {error!r}; fetch the model again") from error
        for name in names:
            if not isinstance(name, str) or not _SHARD.fullmatch(name):
                raise ModelError(
                    f"{index} names {name!r}; expected the name of a .safetensors file in the same folder, since only"
                    " such weights are loaded"
                )
        return [name for name in names if not (folder / name).is_file()]
    return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
