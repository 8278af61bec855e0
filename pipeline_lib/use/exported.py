"""Ask a model that WhyScore has exported. It needs torch, transformers, Pillow and NumPy, and nothing of WhyScore.

`whyscore predict --export` copies this module and the two that it imports to the exported folder, so that the README's
code prepares images, asks and reads a score as `whyscore predict` does.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from pipeline_lib.data.modes import upright_rgb
from pipeline_lib.vlm.image_processors import PROCESSORS

FORMAT = 1
"""Of `whyscore.json`; another number has other fields."""

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM")


class Answer(NamedTuple):
    """The answer about an image: its score on the data set's own scale, the text, and the probabilities of 0..9."""

    score: float
    text: str
    distribution: list[float]


class ExportedModel:
    """The model in an exported folder; `base` is the folder or hub id of an adapter's base."""

    def __init__(self, folder: str | Path, base: str | None = None, device: str = "cpu"):
        self.facts: dict[str, Any] = json.loads(Path(folder, "whyscore.json").read_text(encoding="utf-8"))
        if self.facts["format"] != FORMAT:
            raise ValueError(f"whyscore.json has format {self.facts['format']}; this code reads {FORMAT}")
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

    @torch.inference_mode()
    def ask(self, path: str | Path) -> Answer:
        """Score and explain an image file."""
        image, facts, tokenizer = self.open_image(path), self.facts, self.processor.tokenizer
        inputs = self._inputs(image, facts["chat"] + facts["score_context"])
        logits = self.model(**inputs, logits_to_keep=1).logits[0, -1].double()
        distribution = logits[facts["score_token_ids"]].softmax(0).tolist()
        score = sum(p * value for p, value in zip(distribution, facts["reference_values"], strict=True))
        inputs = self._inputs(image, facts["chat"])
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=facts["max_new_tokens"],
            eos_token_id=facts["end_token_ids"],
            pad_token_id=facts["end_token_ids"][0],
            suppress_tokens=facts["never_token_ids"],
        )
        output = self.model.generate(**inputs, generation_config=config)[0].tolist()
        before = inputs["input_ids"].shape[1]
        end = next((at for at in range(before, len(output)) if output[at] in facts["end_token_ids"]), len(output))
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        given = tokenizer.decode(output[:before], **plain)
        return Answer(score, tokenizer.decode(output[:end], **plain)[len(given) :], distribution)

    def _inputs(self, image: Image.Image, text: str) -> Any:
        inputs = self.processor(images=[[image]], text=[text], add_special_tokens=False, return_tensors="pt")
        return inputs.to(self.device, dtype=self.dtype)
