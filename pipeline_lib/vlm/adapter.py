"""LoRA adapters of the store, checked before any library reads them.

PEFT's configuration file can ask for more than an adapter: another method, a module to import, weights in a format that
runs code. Only files like those that WhyScore writes are accepted.
"""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig

from pipeline_lib.errors import StoreError
from pipeline_lib.store import ArtifactRef, ArtifactStore

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

_FREE = {
    *("r", "lora_alpha", "target_modules", "base_model_name_or_path", "inference_mode", "task_type", "peft_version"),
    "auto_mapping",
}
"""Fields that differ between our adapters; the others have PEFT's default in all of them."""


def fetch_adapter(store: ArtifactStore, ref: ArtifactRef, folder: Path) -> None:
    """Copy an adapter's files to a local folder; raises `StoreError` when they are damaged or no plain LoRA adapter."""
    store.fetch(ref.address, folder)
    check_adapter(folder, store.path(ref.address))


def check_adapter(folder: Path, where: str) -> None:
    """Raise `StoreError` unless a folder holds a plain LoRA adapter in safetensors; `where` names it in the error."""
    if not (folder / WEIGHTS).is_file():
        raise StoreError(f"{where}: there is no {WEIGHTS}; adapters are loaded from safetensors alone")
    try:
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        usual = json.loads(json.dumps(LoraConfig().to_dict(), default=sorted))
        unusual = sorted(name for name, value in found.items() if name not in _FREE and value != usual.get(name))
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{where}: {CONFIG} cannot be read: {error}") from error
    if unusual:
        raise StoreError(
            f"{where}: {CONFIG} sets {unusual[0]} to {str(found[unusual[0]])[:80]!r}; expected a plain LoRA adapter as"
            " WhyScore writes it"
        )
