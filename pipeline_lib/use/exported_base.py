"""Load a model that WhyScore has exported, prepare images, and generate answers.

An exported folder has a copy of this module and of the two that it imports. They need torch, transformers, Pillow and
NumPy, and nothing of WhyScore.
"""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from pipeline_lib.data.modes import upright_rgb
from pipeline_lib.vlm.image_processors import PROCESSORS

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM")


class ExportedBase:
    """The model in an exported folder; `base` is the folder or hub id of an adapter's base."""

    formats: tuple[int, ...] = (1,)
    """Of `whyscore.json`; another number has other fields."""

    def __init__(self, folder: str | Path, base: str | None = None, device: str = "cpu"):
        self.facts: dict[str, Any] = json.loads(Path(folder, "whyscore.json").read_text(encoding="utf-8"))
        if self.facts["format"] not in self.formats:
            raise ValueError(f"whyscore.json has format {self.facts['format']}; this code reads {self.formats}")
        source = str(folder if base is None else base)
        at = {"revision": self.facts["base_revision"]} if base and not Path(base).is_dir() else {}
        kind = PROCESSORS.get(AutoConfig.from_pretrained(source, **at).model_type, AutoProcessor)
        self.processor = kind.from_pretrained(source, **at)
        # Pillow's pixels on every machine; torchvision's differ a little.
        self.processor.image_processor = AutoImageProcessor.from_pretrained(source, backend="pil", **at)
        for name, value in self.facts["image_processor"].items():
            setattr(self.processor.image_processor, name, value)
        self.device, self.dtype = torch.device(device), getattr(torch, self.facts["dtype"])
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=self.dtype, use_safetensors=True, **at)
        if base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder))
            if self.dtype == torch.float32:
                model = model.merge_and_unload()
        if "image_grid_pinpoints" in self.facts["image_processor"]:
            model.config.image_grid_pinpoints = self.facts["image_processor"]["image_grid_pinpoints"]
        self.model = model.to(self.device).eval()

    def open_image(self, path: str | Path) -> Image.Image:
        """An image file as upright 8-bit RGB, its longest side at most `resize_px`."""
        image = upright_rgb(Image.open(path, formats=FORMATS))
        image.thumbnail((self.facts["resize_px"], self.facts["resize_px"]), Image.Resampling.BICUBIC)
        return image

    def generate(self, image: Image.Image, count: int = 1, logits_processor: Any = None) -> list[str]:
        """So many answers to the prompt about an image, greedy unless `logits_processor` chooses the tokens."""
        facts, tokenizer = self.facts, self.processor.tokenizer
        inputs = self.inputs(image, facts["chat"], count)
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=facts["max_new_tokens"],
            eos_token_id=facts["end_token_ids"],
            pad_token_id=facts["end_token_ids"][0],
            suppress_tokens=facts["never_token_ids"],
        )
        output = self.model.generate(**inputs, generation_config=config, logits_processor=logits_processor).tolist()
        before = inputs["input_ids"].shape[1]
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        given, texts = len(tokenizer.decode(output[0][:before], **plain)), []
        for ids in output:
            end = next((at for at in range(before, len(ids)) if ids[at] in facts["end_token_ids"]), len(ids))
            texts.append(tokenizer.decode(ids[:end], **plain)[given:])
        return texts

    def inputs(self, image: Image.Image, text: str, count: int = 1) -> Any:
        """The model's input for a text about an image, so many times."""
        inputs = self.processor(
            images=[[image]] * count, text=[text] * count, add_special_tokens=False, return_tensors="pt"
        )
        return inputs.to(self.device, dtype=self.dtype)
