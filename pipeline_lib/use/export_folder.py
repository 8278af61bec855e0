"""Write a trained model into a folder of its own, as transformers and servers of its models load it.

This is the same for every method. `pipeline_lib.use.exports` has the facts, the code and the README of each.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from transformers import GenerationConfig

from pipeline_lib.errors import ModelError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.adapter import fetch_adapter
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.engine.engine import own_generation_config
from pipeline_lib.vlm.generate.inputs import end_ids, image_ids
from pipeline_lib.vlm.load import load_base, load_processor
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.weights import SMALL_FILES

ROOT = Path(__file__).parents[2]

NAME = "whyscore.json"

COMMON_CODE: Mapping[str, Path] = {
    "whyscore_base.py": ROOT / "pipeline_lib" / "use" / "exported_base.py",
    "whyscore_pixels.py": ROOT / "pipeline_lib" / "data" / "modes.py",
    "whyscore_processors.py": ROOT / "pipeline_lib" / "vlm" / "image_processors.py",
}
"""Code of every exported folder, and the modules that it is copied from."""

_REWRITTEN = ("config.json", "generation_config.json", "model.safetensors.index.json")


class Export(NamedTuple):
    """A model of a run and what its folder says about it."""

    name: str  # of the model
    why: str  # why this model of the run
    model: ModelRef
    facts: dict[str, Any]  # content of `whyscore.json`; has those of `model_facts`
    code: Mapping[
        str, Path
    ]  # further files of code, `whyscore_model.py` among them, by the modules they are copied from
    title: str  # a sentence on what the model does
    example: tuple[str, ...]  # lines of Python that use `answer`
    reading: str  # how to ask by code of one's own: entries of a list in Markdown
    warnings: tuple[str, ...] = ()  # of the run's verdict


def model_facts(model: ModelRef, name: str, prompt: str, max_new_tokens: int) -> dict[str, Any]:
    """The facts that the common code reads: where the model comes from, how images and prompt are prepared."""
    processor = load_processor(model)
    chat = render_chat(processor, prompt)
    limited = {
        name: value
        for name in ("max_patches", "image_grid_pinpoints")
        if model.max_tiles is not None and (value := getattr(processor.image_processor, name, None)) is not None
    }
    return {
        "model": name,
        "base": model.name,
        "base_revision": model.revision,
        "base_fingerprint": model.fingerprint,
        "adapter": model.adapter.address if model.adapter else None,
        "dtype": model.dtype,
        "prompt": prompt,
        "resize_px": model.resize_px,
        "max_tiles": model.max_tiles,
        "image_processor": limited,
        "max_new_tokens": max_new_tokens,
        "chat": chat.prompt,
        "end_token_ids": end_ids(own_generation_config(model), processor.tokenizer, chat),
        "never_token_ids": image_ids(processor),
    }


def check_exportable(model: ModelRef, name: str, why: str) -> None:
    """Raise `ModelError` for a base without an adapter."""
    if model.adapter is None:
        raise ModelError(
            f"{name} is {why or 'the base model'}, and it has no adapter to export: use the base"
            " model itself, or give --iteration to export a model that the run has trained"
        )


def write_folder(store: ArtifactStore, export: Export, folder: Path, *, adapter_only: bool = False) -> None:
    """Write weights, processor, chat template, `whyscore.json`, code and a README to a new folder.

    The adapter is folded into the base's weights in float32, then rounded to the recipe's dtype: exact for float32; in
    16 bit the rounding differs from that of a separate adapter, so texts may differ in places. With `adapter_only` the
    adapter is written as it is. Raises `ModelError` when the folder exists and is not empty, and for the base model.
    """
    model = export.model
    check_exportable(model, export.name, export.why)
    assert model.adapter is not None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} exists and is not empty; give a new folder")
    if adapter_only and model.folded:
        raise ModelError(
            f"{export.name} is trained on {model.name}, which others cannot load; export the whole model"
            " instead of only its adapter"
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was cut off
    (partial / "adapter").mkdir(parents=True)
    fetch_adapter(store, model.adapter, partial / "adapter")
    (partial / "adapter" / "training_log.parquet").unlink(missing_ok=True)
    if adapter_only:
        for path in (partial / "adapter").iterdir():
            path.rename(partial / path.name)
    else:
        _fold(store, model, export.facts["max_new_tokens"], partial)
        shutil.rmtree(partial / "adapter")
    if adapter_only:
        (partial / "adapter").rmdir()
    content = json.dumps(export.facts, indent=2, ensure_ascii=False)
    (partial / NAME).write_text(content + "\n", encoding="utf-8")
    code = {**COMMON_CODE, **export.code}
    for name, source in code.items():
        (partial / name).write_text(_own_code(source, code), encoding="utf-8")
    readme = partial / "README.md"
    readme.write_text(_readme(export, _base_of(model) if adapter_only else None), encoding="utf-8")
    for path in partial.iterdir():
        path.chmod(readme.stat().st_mode)  # safetensors writes files that only their owner may read
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)


def _fold(store: ArtifactStore, ref: ModelRef, max_new_tokens: int, folder: Path) -> None:
    for path in sorted({path for pattern in SMALL_FILES for path in ref.folder().glob(pattern)}):
        if path.name not in _REWRITTEN:
            shutil.copyfile(path, folder / path.name)
    base = load_base(ref.model_copy(update={"dtype": "float32"}), torch.device("cpu"), store).model
    special = base.generation_config
    model = PeftModel.from_pretrained(base, str(folder / "adapter")).merge_and_unload()
    model = model.to(getattr(torch, ref.dtype))
    model.generation_config = GenerationConfig(
        bos_token_id=special.bos_token_id,
        eos_token_id=special.eos_token_id,
        pad_token_id=special.pad_token_id,
        do_sample=False,
        max_new_tokens=max_new_tokens,
    )
    model.save_pretrained(str(folder))


def _own_code(path: Path, code: Mapping[str, Path]) -> str:
    """A module of WhyScore whose imports of others are those of their copies beside it."""
    text = path.read_text(encoding="utf-8")
    for name, source in code.items():
        module = ".".join(source.relative_to(ROOT).with_suffix("").parts)
        text = text.replace(f"from {module} import", f"from {name.removesuffix('.py')} import")
    return text


def _base_of(model: ModelRef) -> str:
    """The base of an adapter as an expression in Python: shipped, a folder of this machine, or a hub id."""
    if model.name == "bundled":
        return "str(BUNDLED)"
    return repr(os.path.abspath(model.location) if os.path.isdir(model.location) else model.name)


def fenced(text: str, kind: str = "") -> str:
    """A text as a block of Markdown that it cannot end by itself."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def _readme(export: Export, base: str | None) -> str:
    facts = export.facts
    tiles = f", at most {facts['max_tiles']} tiles" if facts["max_tiles"] else ""
    bundled = ["from pipeline_lib.vlm.model_ref import BUNDLED  # the base ships with WhyScore"]
    code = [
        *(bundled if base == "str(BUNDLED)" else []),
        "from whyscore_model import ExportedModel",
        "",
        f'model = ExportedModel("."{f", base={base}" if base else ""})',
        'answer = model.ask("photo.jpg")',
        *export.example,
    ]
    return f"""# {facts["model"]} of {facts["base"]}

{export.title} {
        "The LoRA adapter alone" if base else "The base model with its adapter folded in"
    }; trained with WhyScore.

Run this in the folder; it gives what `whyscore predict` gives. It needs {
        "PEFT, " if base else ""
    }torch, transformers, Pillow
and NumPy.

{fenced(chr(10).join(code), "python")}

For a server, or code of your own, everything is in `whyscore.json`, and `whyscore_model.py` shows how to use it:

- **Image**: upright (EXIF), 8-bit RGB, transparency on white (`whyscore_pixels.py`); then its longest side at most
  {facts["resize_px"]} pixels (bicubic, never enlarged){tiles}.
- **Prompt**, the image before the text. `chat` is the whole turn in the chat template, with the begin token that the
  model was trained with; tokenise it without adding special tokens.

{fenced(facts["prompt"])}

{export.reading}
"""
