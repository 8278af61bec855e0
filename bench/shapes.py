"""Random-weight models whose parts stand to each other as a real model's do, and pairs of the usual length."""

from typing import Any, NamedTuple

import numpy as np
import torch
import transformers as t
from PIL import Image

from pipeline_lib.testing.tiny_families import (
    INTERNVL_TOKENS,
    QWEN25_VL,
    QWEN_TOKENS,
    VICUNA,
    VISION_TOKENS,
    byte_level,
    sentencepiece,
)
from pipeline_lib.vlm.image_processors import InternVLImageProcessor, Qwen25VLImageProcessor


class Shape(NamedTuple):
    """Sizes of a model. The small ones' are such that vision tower and head have about the share of a real model's."""

    name: str
    family: str  # llava, llava_next, internvl or qwen2_5_vl
    text: tuple[int, int, int, int, int]  # layers, width, width inside, heads, vocabulary
    vision: tuple[int, int, int, int]  # layers, width, width inside, heads
    image_px: tuple[int, int]  # width and height, which decide the number of tiles
    rank: int


SMALL = [
    Shape("LLaVA-1.5-7B proportions", "llava", (2, 1024, 2752, 16, 512), (2, 128, 512, 4), (336, 336), 16),
    Shape(
        "LLaVA-NeXT-7B proportions, 5 tiles", "llava_next", (2, 1024, 2752, 16, 512), (2, 128, 512, 4), (672, 672), 16
    ),
    Shape("InternVL2.5-2B proportions", "internvl", (2, 1024, 4096, 16, 1536), (3, 336, 1344, 4), (448, 448), 16),
]
TRUE = [
    Shape("LLaVA-1.5-7B", "llava", (32, 4096, 11008, 32, 32064), (24, 1024, 4096, 16), (336, 336), 64),
    Shape("LLaVA-NeXT-7B, 3 tiles", "llava_next", (32, 4096, 11008, 32, 32064), (24, 1024, 4096, 16), (336, 672), 64),
    Shape("LLaVA-NeXT-7B, 5 tiles", "llava_next", (32, 4096, 11008, 32, 32064), (24, 1024, 4096, 16), (672, 672), 64),
    Shape("InternVL2.5-2B", "internvl", (24, 2048, 8192, 16, 92553), (24, 1024, 4096, 16), (448, 448), 64),
]
"""InternLM2's eight key heads are taken as sixteen, and a tower's last layer is run though LLaVA leaves it out."""

NARROW = [
    Shape("LLaVA-1.5-7B proportions", "llava", (2, 512, 1376, 8, 512), (2, 112, 448, 4), (336, 336), 8),
    Shape("Qwen2.5-VL-7B proportions, KonIQ", "qwen2_5_vl", (2, 512, 2704, 8, 1600), (2, 160, 448, 4), (1024, 768), 8),
    Shape("LLaVA-NeXT-7B proportions, 5 tiles", "llava_next", (2, 512, 1376, 8, 512), (2, 112, 448, 4), (672, 672), 8),
]
"""Half as wide, for steps of 32 answers; attention has twice the share that it has in `SMALL`."""

QWEN = Shape("Qwen2.5-VL-7B, KonIQ", "qwen2_5_vl", (28, 3584, 18944, 28, 152064), (32, 1280, 3420, 16), (1024, 768), 64)
TRUE_FOR_GRPO = [TRUE[0], QWEN, TRUE[2]]

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def build(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Model and processor; weights are drawn on the device, the same ones each time."""
    layers, width, inside, heads, vocabulary = shape.text
    if shape.family == "qwen2_5_vl":
        return _qwen(shape, device, dtype)
    internvl = shape.family == "internvl"
    tokenizer = sentencepiece(extra_special_tokens=INTERNVL_TOKENS if internvl else {"image_token": "<image>"})
    text = t.LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inside,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id,
    )
    config, kind, processor = (_internvl if internvl else _llava)(shape, text, tokenizer)
    torch.manual_seed(0)
    with torch.device(device):
        model = kind._from_config(config, dtype=dtype)
    return model.eval(), processor


def _vision(kind: Any, shape: Shape, **more: Any) -> Any:
    layers, width, inside, heads = shape.vision
    return kind(
        num_hidden_layers=layers, hidden_size=width, intermediate_size=inside, num_attention_heads=heads, **more
    )


def _llava(shape: Shape, text: Any, tokenizer: Any) -> tuple[Any, Any, Any]:
    options: dict[str, Any] = {"patch_size": 14, "vision_feature_select_strategy": "default"}
    options |= {"num_additional_image_tokens": 1, "chat_template": VICUNA}
    vision = _vision(t.CLIPVisionConfig, shape, image_size=336, patch_size=14)
    crop = {"height": 336, "width": 336}
    token = tokenizer.convert_tokens_to_ids("<image>")
    if shape.family == "llava_next":
        images = t.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size=crop, image_grid_pinpoints=PINPOINTS)
        config = t.LlavaNextConfig(
            vision_config=vision, text_config=text, image_token_index=token, image_grid_pinpoints=PINPOINTS
        )
        return config, t.LlavaNextForConditionalGeneration, t.LlavaNextProcessor(images, tokenizer, **options)
    images = t.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=crop)
    config = t.LlavaConfig(vision_config=vision, text_config=text, image_token_index=token)
    return config, t.LlavaForConditionalGeneration, t.LlavaProcessor(images, tokenizer, **options)


def _internvl(shape: Shape, text: Any, tokenizer: Any) -> tuple[Any, Any, Any]:
    images = t.GotOcr2ImageProcessor(size={"height": 448, "width": 448}, max_patches=1)
    vision = _vision(t.InternVLVisionConfig, shape, image_size=[448, 448], patch_size=[14, 14], attention_bias=True)
    processor = InternVLImageProcessor(images, tokenizer, image_seq_length=256)
    config = t.InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=processor.image_token_id, image_seq_length=256
    )
    return config, t.InternVLForConditionalGeneration, processor


def _qwen(shape: Shape, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Four heads share keys (in Qwen2.5-VL-7B seven do), and four patches are a token."""
    layers, width, inside, heads, vocabulary = shape.text
    tokenizer = byte_level([*QWEN_TOKENS, *VISION_TOKENS])
    processor = Qwen25VLImageProcessor(t.Qwen2VLImageProcessor(), tokenizer, chat_template=QWEN25_VL)
    sections = [width // heads // 8, *[3 * width // heads // 16] * 2]
    text = t.models.qwen2_5_vl.Qwen2_5_VLTextConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inside,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6},
    )
    depth, vision_width, vision_inside, vision_heads = shape.vision
    vision = {
        "depth": depth,
        "hidden_size": vision_width,
        "intermediate_size": vision_inside,
        "num_heads": vision_heads,
        "out_hidden_size": width,
        "fullatt_block_indexes": [depth - 1],
    }
    names = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 0, "vision_end_token_id": 1}
    ids = {name: tokenizer.convert_tokens_to_ids(VISION_TOKENS[at]) for name, at in names.items()}
    config = t.Qwen2_5_VLConfig(vision_config=vision, text_config=text.to_dict(), **ids)
    torch.manual_seed(0)
    with torch.device(device):
        model = t.Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)
    return model.eval(), processor


QUESTION = "Is the picture good?" + " The light is good, the colours are bright." * 5
"""About 60 tokens."""


def pictures(shape: Shape, count: int) -> list[Image.Image]:
    """Images of noise of the shape's size."""
    draw = np.random.default_rng(0)
    width, height = shape.image_px
    return [Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def pairs(shape: Shape, count: int) -> list[dict[str, Any]]:
    """Pairs about images of noise: about 60 tokens of text in the prompt, about 100 in each answer."""
    draw = np.random.default_rng(0)
    width, height = shape.image_px
    image = {"internvl": "<IMG_CONTEXT>", "qwen2_5_vl": "<|image_pad|>"}.get(shape.family, "<image>")
    ask = " the light is good, the colours are bright." * 6
    return [
        {
            "image": Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)),
            "prompt": f"<s>USER: {image}\n{ask} ASSISTANT:",
            "chosen": f" #Score: {at % 10}\n\n#Explain:{' the light is good, the colours are bright.' * 11}</s>",
            "rejected": f" #Score: {(at + 5) % 10}\n\n#Explain:{' the picture is dull and grey.' * 8}</s>",
        }
        for at in range(count)
    ]
