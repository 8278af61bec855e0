"""Write a trained model into a folder of its own, as transformers and servers of its models load it."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.predictions import EVALUATED, Scale, scale_of
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.methods.self_improve.uncertainty import USED_LEVEL
from pipeline_lib.store import ArtifactStore
from pipeline_lib.use.export_facts import FORMAT, NAME, ExportFacts
from pipeline_lib.use.trained import Trained
from pipeline_lib.vlm.adapter import fetch_adapter
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.engine.engine import own_generation_config
from pipeline_lib.vlm.generate.inputs import end_ids, image_ids
from pipeline_lib.vlm.load import load_base, load_processor
from pipeline_lib.vlm.weights import SMALL_FILES

ROOT = Path(__file__).parents[2]

_CODE = {
    "whyscore_model.py": ROOT / "pipeline_lib" / "use" / "exported.py",
    "whyscore_pixels.py": ROOT / "pipeline_lib" / "data" / "modes.py",
    "whyscore_processors.py": ROOT / "pipeline_lib" / "vlm" / "image_processors.py",
}
"""The exported code, and the modules that it is copied from."""

_SHIPPED = "str(BUNDLED)"

_REWRITTEN = ("config.json", "generation_config.json", "model.safetensors.index.json")


def export_model(
    store: ArtifactStore,
    trained: Trained,
    prompt: Prompt,
    max_new_tokens: int,
    folder: Path,
    *,
    score_column: str,
    seed: int,
    adapter_only: bool = False,
) -> None:
    """Write weights, processor, chat template, `whyscore.json`, code and a README to a new folder.

    The adapter is folded into the base's weights in float32, then rounded to the recipe's dtype: exact for float32; in
    16 bit the rounding differs from that of a separate adapter, so texts may differ in places. With `adapter_only` the
    adapter is written as it is. Raises `ModelError` when the folder exists and is not empty, and for the base model.
    """
    if trained.model.adapter is None:
        raise ModelError(
            f"{trained.name} is {trained.why or 'the base model'}, and it has no adapter to export: use the base"
            " model itself, or give --iteration to export a model that the run has trained"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} exists and is not empty; give a new folder")
    if adapter_only and trained.model.folded:
        raise ModelError(
            f"{trained.name} is trained on {trained.model.name}, which others cannot load; export the whole model"
            " instead of only its adapter"
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was cut off
    (partial / "adapter").mkdir(parents=True)
    assert trained.model.adapter is not None
    fetch_adapter(store, trained.model.adapter, partial / "adapter")
    (partial / "adapter" / "training_log.parquet").unlink(missing_ok=True)
    if adapter_only:
        for path in (partial / "adapter").iterdir():
            path.rename(partial / path.name)
    else:
        _fold(store, trained, max_new_tokens, partial)
        shutil.rmtree(partial / "adapter")
    if adapter_only:
        (partial / "adapter").rmdir()
    reference_values, predictions = (store.read_table(trained.evaluated.address, name) for name in EVALUATED)
    scale = scale_of(reference_values, predictions, seed)
    facts = _facts(trained, prompt, max_new_tokens, scale) | {"score_column": score_column}
    content = ExportFacts.model_validate(facts).model_dump(mode="json")
    (partial / NAME).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, source in _CODE.items():
        (partial / name).write_text(_own_code(source), encoding="utf-8")
    readme = partial / "README.md"
    readme.write_text(_readme(facts, _base_of(trained) if adapter_only else None), encoding="utf-8")
    for path in partial.iterdir():
        path.chmod(readme.stat().st_mode)  # safetensors writes files that only their owner may read
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)


def _fold(store: ArtifactStore, trained: Trained, max_new_tokens: int, folder: Path) -> None:
    ref = trained.model
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


def _facts(trained: Trained, prompt: Prompt, max_new_tokens: int, scale: Scale) -> dict[str, Any]:
    model, used = trained.model, scale.used
    folds = [{"reference_values": fold.values.tolist(), "errors": fold.errors.tolist()} for fold in scale.calibrated]
    processor = load_processor(model)
    chat = render_chat(processor, prompt.text)
    scores = resolve_score_tokens(processor.tokenizer, chat)
    own = own_generation_config(model)
    limited = {
        name: value
        for name in ("max_patches", "image_grid_pinpoints")
        if model.max_tiles is not None and (value := getattr(processor.image_processor, name, None)) is not None
    }
    return {
        "format": FORMAT,
        "model": trained.name,
        "base": model.name,
        "base_revision": model.revision,
        "base_fingerprint": model.fingerprint,
        "adapter": model.adapter.address if model.adapter else None,
        "dtype": model.dtype,
        "prompt": prompt.text,
        "score_is_of": prompt.criterion.score,
        "resize_px": model.resize_px,
        "max_tiles": model.max_tiles,
        "image_processor": limited,
        "max_new_tokens": max_new_tokens,
        "chat": chat.prompt,
        "score_context": scores.context,
        "score_token_ids": list(scores.ids),
        "end_token_ids": end_ids(own, processor.tokenizer, chat),
        "never_token_ids": image_ids(processor),
        "reading": used.reading,
        "reference_values": used.values.tolist(),
        "interval": {"level": USED_LEVEL, "folds": folds} if folds else None,
    }


def _own_code(path: Path) -> str:
    """A module of WhyScore whose imports of others are those of their copies beside it."""
    text = path.read_text(encoding="utf-8")
    for name, source in _CODE.items():
        module = ".".join(source.relative_to(ROOT).with_suffix("").parts)
        text = text.replace(f"from {module} import", f"from {name.removesuffix('.py')} import")
    return text


def _base_of(trained: Trained) -> str:
    """The base of an adapter as an expression in Python: shipped, a folder of this machine, or a hub id."""
    model = trained.model
    if model.name == "bundled":
        return _SHIPPED
    return repr(os.path.abspath(model.location) if os.path.isdir(model.location) else model.name)


def fenced(text: str, kind: str = "") -> str:
    """A text as a block of Markdown that it cannot end by itself."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def _readme(facts: dict[str, Any], base: str | None) -> str:
    tiles = f", at most {facts['max_tiles']} tiles" if facts["max_tiles"] else ""
    values = ", ".join(f"{value:.4g}" for value in facts["reference_values"])
    bundled = (
        "from pipeline_lib.vlm.model_ref import BUNDLED  # the base ships with WhyScore\n"
        if base == "str(BUNDLED)"
        else ""
    )
    given = f", base={base}" if base else ""
    code = f"""{bundled}from whyscore_model import ExportedModel

model = ExportedModel("."{given})
answer = model.ask("photo.jpg")
print(answer.score)
print(answer.text)"""
    return f"""# {facts["model"]} of {facts["base"]}

Scores an image 0..9 ({facts["score_is_of"]}) and says why. {
        "The LoRA adapter alone" if base else "The base model with its adapter folded in"
    }; trained with WhyScore.

Run this in the folder; it gives what `whyscore predict` gives. It needs {
        "PEFT, " if base else ""
    }torch, transformers, Pillow
and NumPy.

{fenced(code, "python")}

For a server, or code of your own, everything is in `whyscore.json`, and `whyscore_model.py` shows how to use it:

- **Image**: upright (EXIF), 8-bit RGB, transparency on white (`whyscore_pixels.py`); then its longest side at most
  {facts["resize_px"]} pixels (bicubic, never enlarged){tiles}.
- **Prompt**, the image before the text. `chat` is the whole turn in the chat template, with the begin token that the
  model was trained with; tokenise it without adding special tokens.

{fenced(facts["prompt"])}

- **Answer**: greedy (no sampling), at most {
        facts["max_new_tokens"]
    } tokens: `#Score: 7`, an empty line, `#Explain: ..`.
- **Score on the data set's own scale**: the probabilities of the ten digits (`score_token_ids`) behind `chat` and
  `score_context`, normalised over the ten, times the {facts["reading"]} reference values 0..9: {values}.
"""
