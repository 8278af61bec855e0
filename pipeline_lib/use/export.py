"""Write a trained model into a folder of its own, as transformers and servers of its models load it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import PeftModel
from transformers import GenerationConfig

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.predictions import used_values
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.store import ArtifactStore
from pipeline_lib.use.trained import Trained
from pipeline_lib.vlm.adapter import fetch_adapter
from pipeline_lib.vlm.load import load_base
from pipeline_lib.vlm.weights import SMALL_FILES

_REWRITTEN = ("config.json", "generation_config.json", "model.safetensors.index.json")


def export_model(
    store: ArtifactStore,
    trained: Trained,
    prompt: Prompt,
    max_new_tokens: int,
    folder: Path,
    *,
    adapter_only: bool = False,
) -> None:
    """Write weights, processor, chat template, `whyscore.json` and a README to a new folder.

    The adapter is folded into the base's weights in float32, then rounded to the recipe's dtype: exact for float32; in
    16 bit the rounding differs from that of a separate adapter, so texts may differ in places. With `adapter_only` the
    adapter is written as it is. Raises `ModelError` when the folder exists and is not empty.
    """
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
    facts = _facts(trained, prompt, max_new_tokens, store.read_table(trained.evaluated.address, "reference_values"))
    (partial / "whyscore.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(_readme(facts, adapter_only), encoding="utf-8")
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


def _facts(trained: Trained, prompt: Prompt, max_new_tokens: int, reference_values: pa.Table) -> dict[str, Any]:
    model, used = trained.model, used_values(reference_values)
    return {
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
        "max_new_tokens": max_new_tokens,
        "reading": used.reading,
        "reference_values": used.values.tolist(),
    }


def _readme(facts: dict[str, Any], adapter_only: bool) -> str:
    load = (
        f'base = AutoModelForImageTextToText.from_pretrained("{facts["base"]}", revision={facts["base_revision"]!r})\n'
        'model = PeftModel.from_pretrained(base, ".")\n'
        f'processor = AutoProcessor.from_pretrained("{facts["base"]}", revision={facts["base_revision"]!r})'
        if adapter_only
        else 'model = AutoModelForImageTextToText.from_pretrained(".", dtype="auto")\n'
        'processor = AutoProcessor.from_pretrained(".")'
    )
    tiles = f", at most {facts['max_tiles']} tiles" if facts["max_tiles"] else ""
    values = ", ".join(f"{value:.4g}" for value in facts["reference_values"])
    return f"""# {facts["model"]} of {facts["base"]}

Scores an image 0..9 ({facts["score_is_of"]}) and says why. {
        "The LoRA adapter alone" if adapter_only else "The base model with its adapter folded in"
    }; trained with WhyScore. Everything below is in `whyscore.json` too.

- **Image**: first resized so that its longest side is at most {facts["resize_px"]} pixels (bicubic, never enlarged){
        tiles
    }.
- **Prompt**, with the processor's own chat template, the image before the text:

```
{facts["prompt"]}
```

- **Answer**: greedy (no sampling), at most {
        facts["max_new_tokens"]
    } tokens: `#Score: 7`, an empty line, `#Explain: ..`.
- **Score on the data set's own scale**: the probabilities of the ten digits, where the answer states its score
  (after `#Score: `), normalised over the ten, times the {facts["reading"]} reference values 0..9: {values}.

```python
{"from peft import PeftModel" + chr(10) if adapter_only else ""}from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

{load}
image = Image.open("photo.jpg").convert("RGB")
image.thumbnail(({facts["resize_px"]}, {facts["resize_px"]}), Image.Resampling.BICUBIC)
turns = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": PROMPT}}]}}]
text = processor.apply_chat_template(turns, add_generation_prompt=True)
inputs = processor(images=[image], text=text, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**inputs, do_sample=False, max_new_tokens={facts["max_new_tokens"]})
print(processor.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""
