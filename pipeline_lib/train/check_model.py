"""Check whether WhyScore can ask and train a model, before any image is read; no weights are loaded."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from pipeline_lib.errors import ModelError
from pipeline_lib.train.lora import language_linears
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.load import load_config, load_processor
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.weights import is_remote, missing_weights


def check_model(ref: ModelRef, prompt: str, images: int = 1) -> dict[str, Any]:
    """Facts about a model: class, parameters, the rendered prompt about some images, linear layers that get LoRA.

    Also the length of a prompt with images of 4:3, resized as in the run, and whether the weights are on this machine
    (a model of the hub is downloaded when it is first loaded). Raises `ModelError` when the processor is missing, the
    chat template is unusable, the architecture is unknown or the weights are not available.
    """
    processor = load_processor(ref)
    chat = render_chat(processor, prompt, images)
    folder = ref.folder(weights=False)
    missing = missing_weights(folder)
    if missing and (is_remote(ref.location) or Path(ref.location).is_dir()):
        raise ModelError(
            f"model {ref.name}: {folder} lacks {missing[0]}"
            f"{f' and {len(missing) - 1} more' if missing[1:] else ''}; only safetensors weights are read"
        )
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(load_config(ref))
    except (ValueError, KeyError) as error:
        raise ModelError(f"model {ref.name}: not a vision-language model that transformers knows: {error}") from error
    return {
        "architecture": type(model).__name__,
        "model_type": model.config.model_type,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "weights_on_this_machine": not missing,
        "prompt": chat.prompt,
        "answer_separator": chat.separator,
        "answer_end": chat.end,
        "lora_layers": len(language_linears(model)),
        **_image_facts(processor, chat, ref.resize_px, images),
    }


def _image_facts(processor: Any, chat: Chat, side_px: int, images: int) -> dict[str, int]:
    image = Image.new("RGB", (side_px, side_px * 3 // 4))
    inputs = processor(images=[[image] * images], text=[chat.prompt], add_special_tokens=False, return_tensors="pt")
    ids, pixels = inputs["input_ids"][0], inputs["pixel_values"]
    tiles = {5: lambda: pixels.shape[1], 4: lambda: pixels.shape[0]}.get(pixels.ndim, lambda: 1)()
    return {
        "prompt_tokens": len(ids),
        "image_tokens": int((ids == processor.image_token_id).sum()),
        "tiles": tiles,  # views of the image that the vision encoder sees, with the overview
    }
