"""Tiny checkpoints of random weights of every family: real classes, real kinds of tokenizer, real chat templates.

A checkpoint is a folder as a user would have it, made in under a second and loaded like a real one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as t
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from pipeline_lib.testing.tiny import PROMPT, SENTENCES
from pipeline_lib.vlm.image_processors import InternVLImageProcessor, Qwen3VLImageProcessor, Qwen25VLImageProcessor

torch.set_num_threads(1)

LAYERS, HIDDEN = 2, 32
TILE_PX, PATCH_PX = 28, 14
CONVOLVED_PX = 32  # to a cell of the last map
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]  # LLaVA-NeXT's, a twelfth of the size

_TURN = "{% if add_generation_prompt %}"
_ROLES = "{% for m in messages %}"
_PARTS = "{% for p in m.content %}{% if p.type == 'image' %}"
VICUNA = (
    _ROLES
    + "{{ m.role | upper }}: "
    + _PARTS
    + "<image>\n{% else %}{{ p.text }} {% endif %}{% endfor %}{% endfor %}"
    + _TURN
    + "ASSISTANT:{% endif %}"
)
MISTRAL = (
    _ROLES
    + "{% if m.role == 'user' %}[INST] "
    + _PARTS
    + "<image>\n{% else %}{{ p.text }}{% endif %}{% endfor %} [/INST]"
    + "{% else %} {{ m.content[0].text }}</s> {% endif %}{% endfor %}"
)
INTERLEAVE = (
    _ROLES
    + "<|im_start|>{{ m.role }} "
    + _PARTS
    + "<image>{% else %}{{ '\n' + p.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    + _TURN
    + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CHATML = _PARTS + "IMAGE{% else %}{{ p.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}" + _TURN
_CHATML = _ROLES + "SYSTEM{{ '<|im_start|>' + m.role + '\n' }}" + _CHATML + "{{ '<|im_start|>assistant\n' }}{% endif %}"
INTERNVL = _CHATML.replace("SYSTEM", "").replace("IMAGE", "{{ '<IMG_CONTEXT>\n' }}")
QWEN3_VL = _CHATML.replace("SYSTEM", "").replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
SMOL = _CHATML.replace("IMAGE", "<image>\n").replace(
    "SYSTEM", "{% if loop.first %}{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
)
QWEN25_VL = _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>").replace(
    "SYSTEM",
    "{% if loop.first %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}",
)

INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
QWEN_TOKENS = ["<|im_start|>", "<|im_end|>"]
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]


class Family(NamedTuple):
    """A family, and what the tests expect of it, written out."""

    name: str
    make: Callable[[], tuple[Any, Any]]  # model and processor
    prompt: str  # rendered
    separator: str
    end: str  # of a turn
    most_tiles: int = 1  # views of one image, the overview included


def sentencepiece(prepend: bool = True, **options: Any) -> Any:
    """Llama's kind: BPE over Metaspace, newlines and unknown characters as bytes, a begin token in front."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    vocab, merges = _train(bpe, ["<unk>", "<s>", "</s>", *bytes_], [text.replace("\n", " ") for text in SENTENCES])
    return t.LlamaTokenizer(
        vocab,
        merges,
        add_prefix_space=prepend,
        add_bos_token=True,
        padding_side="right",
        **{"pad_token": "<pad>"} | options,
    )


def byte_level(extra: Any, **options: Any) -> Any:
    """Qwen's kind: byte-level BPE with its split pattern, no begin token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocab, merges = _train(bpe, ["<|endoftext|>"], SENTENCES, pre_tokenizers.ByteLevel.alphabet())
    return t.Qwen2Tokenizer(
        vocab,
        merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=extra,
        padding_side="right",
        **options,
    )


def _train(bpe: Tokenizer, special: list[str], texts: list[str], alphabet: Any = ()) -> tuple[Any, Any]:
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 400,
        special_tokens=special,
        initial_alphabet=list(alphabet),
        show_progress=False,
        min_frequency=2,
    )
    bpe.train_from_iterator(texts * 3, trainer)
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


_SMALL: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}


def _text(config: Any, tokenizer: Any, **more: Any) -> Any:
    """Heads share keys, as in all real ones but Vicuna."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "num_key_value_heads": 1}
    return config(**sizes | _SMALL | ids | more)


def _clip() -> Any:
    return t.CLIPVisionConfig(image_size=TILE_PX, patch_size=PATCH_PX, **_SMALL)


def _model(build: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = build(config).eval()
    for name, weight in model.named_parameters():  # else some are zeros, and images and layers would not matter
        if weight.ndim > 1 and float(weight.detach().std()) < 0.05:
            torch.nn.init.normal_(weight, std=0.3)
        if "lambda_" in name:
            torch.nn.init.ones_(weight)
    return model


def llava_1_5() -> tuple[Any, Any]:
    """CLIP and Llama."""
    tokenizer = sentencepiece(extra_special_tokens={"image_token": "<image>"})
    size = {"height": TILE_PX, "width": TILE_PX}
    processor = t.LlavaProcessor(
        t.CLIPImageProcessor(size={"shortest_edge": TILE_PX}, crop_size=size),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    config = t.LlavaConfig(
        vision_config=_clip(),
        text_config=_text(t.LlamaConfig, tokenizer, num_key_value_heads=2),
        image_token_index=processor.image_token_id,
        image_seq_length=4,
    )
    return _model(t.LlavaForConditionalGeneration, config), processor


def _llava_next(text: Any, template: str) -> tuple[Any, Any]:
    tokenizer = sentencepiece(extra_special_tokens={"image_token": "<image>"})
    images = t.LlavaNextImageProcessor(
        size={"shortest_edge": TILE_PX},
        crop_size={"height": TILE_PX, "width": TILE_PX},
        image_grid_pinpoints=PINPOINTS,
    )
    processor = t.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    config = t.LlavaNextConfig(
        vision_config=_clip(),
        text_config=_text(text, tokenizer, num_key_value_heads=2 if text is t.LlamaConfig else 1),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=4,
    )
    return _model(t.LlavaNextForConditionalGeneration, config), processor


def llava_interleave() -> tuple[Any, Any]:
    """SigLIP and Qwen2."""
    tokenizer = byte_level([*QWEN_TOKENS, "<image>"])
    processor = t.LlavaProcessor(
        t.SiglipImageProcessor(size={"height": TILE_PX, "width": TILE_PX}),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="full",
        chat_template=INTERLEAVE,
    )
    vision = t.SiglipVisionConfig(image_size=TILE_PX, patch_size=PATCH_PX, vision_use_head=False, **_SMALL)
    config = t.LlavaConfig(
        vision_config=vision,
        text_config=_text(t.Qwen2Config, tokenizer),
        image_token_index=processor.image_token_id,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    return _model(t.LlavaForConditionalGeneration, config), processor


def _internvl(text: Any, tokenizer: Any) -> tuple[Any, Any]:
    images = t.GotOcr2ImageProcessor(size={"height": TILE_PX, "width": TILE_PX})
    processor = InternVLImageProcessor(images, tokenizer, image_seq_length=1, chat_template=INTERNVL)
    vision = t.InternVLVisionConfig(
        image_size=[TILE_PX, TILE_PX], patch_size=[PATCH_PX, PATCH_PX], attention_bias=True, **_SMALL
    )
    config = t.InternVLConfig(
        vision_config=vision,
        text_config=_text(text, tokenizer),
        image_token_id=processor.image_token_id,
        image_seq_length=1,
        tie_word_embeddings=False,
    )
    model = _model(t.InternVLForConditionalGeneration, config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return model, processor


def internvl_internlm2() -> tuple[Any, Any]:
    """InternViT and InternLM2, which the port keeps as a Llama; its end of turn is not the tokenizer's end token."""
    extra = INTERNVL_TOKENS | {"turn": "<|im_start|>", "turn_end": "<|im_end|>"}
    return _internvl(t.LlamaConfig, sentencepiece(prepend=False, pad_token="</s>", extra_special_tokens=extra))


def internvl_qwen2() -> tuple[Any, Any]:
    """InternViT and Qwen2."""
    return _internvl(t.Qwen2Config, byte_level(INTERNVL_TOKENS | {"turn": "<|im_start|>", "turn_end": "<|im_end|>"}))


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 0, "vision_end_token_id": 1}
    return {name: tokenizer.convert_tokens_to_ids(VISION_TOKENS[at]) for name, at in names.items()}


def qwen2_5_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL."""
    tokenizer = byte_level([*QWEN_TOKENS, *VISION_TOKENS])
    images = t.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=12845056)
    processor = Qwen25VLImageProcessor(images, tokenizer, chat_template=QWEN25_VL)
    vision: dict[str, Any] = {
        "depth": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.3,
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    config = t.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=_text(t.models.qwen2_5_vl.Qwen2_5_VLTextConfig, tokenizer, rope_parameters=rope).to_dict(),
        **_qwen_ids(tokenizer),
    )
    return _model(t.Qwen2_5_VLForConditionalGeneration, config), processor


def qwen3_vl() -> tuple[Any, Any]:
    """Qwen3-VL."""
    tokenizer = byte_level([*QWEN_TOKENS, *VISION_TOKENS])
    images = t.Qwen2VLImageProcessor(
        size={"shortest_edge": 32 * 32, "longest_edge": 16777216},
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = Qwen3VLImageProcessor(images, tokenizer, chat_template=QWEN3_VL)
    vision: dict[str, Any] = {
        "depth": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.3,
    }
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 5e6}
    config = t.Qwen3VLConfig(
        vision_config=vision,
        text_config=_text(t.models.qwen3_vl.Qwen3VLTextConfig, tokenizer, rope_parameters=rope, head_dim=16).to_dict(),
        **_qwen_ids(tokenizer),
    )
    return _model(t.Qwen3VLForConditionalGeneration, config), processor


def fast_vlm() -> tuple[Any, Any]:
    """A convolutional tower with batch norm (MobileNetV2) and SmolLM2's kind of language model.

    Its begin token is also the mark of a turn.
    """
    tokenizer = byte_level(["<|im_start|>", "<image>"], bos_token="<|im_start|>")
    tokenizer.image_token, tokenizer.image_token_id = "<image>", tokenizer.convert_tokens_to_ids("<image>")
    side, patch = 2 * CONVOLVED_PX, CONVOLVED_PX
    processor = t.LlavaProcessor(
        t.CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="full",
        chat_template=SMOL,
    )
    vision = t.MobileNetV2Config(
        image_size=side,
        depth_multiplier=0.1,
        finegrained_output=False,
        tf_padding=False,
        layer_norm_eps=1e-5,
        hidden_size=128,  # of the last map
    )
    config = t.FastVlmConfig(
        vision_config=vision,
        text_config=_text(t.LlamaConfig, tokenizer),
        image_token_index=processor.image_token_id,
        image_seq_length=4,
    )
    model = _model(t.FastVlmForConditionalGeneration, config)
    for module in model.modules():  # those of a trained tower; fresh ones are 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model, processor


_ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
_VISION = "<|vision_start|><|image_pad|><|vision_end|>"
FAMILIES = [
    Family("llava-1.5", llava_1_5, f"<s>USER: <image>\n{PROMPT} ASSISTANT:", " ", "</s>"),
    Family(
        "llava-next-vicuna",
        lambda: _llava_next(t.LlamaConfig, VICUNA),
        f"<s>USER: <image>\n{PROMPT} ASSISTANT:",
        " ",
        "</s>",
        most_tiles=5,
    ),
    Family(
        "llava-next-mistral",
        lambda: _llava_next(t.MistralConfig, MISTRAL),
        f"<s>[INST] <image>\n{PROMPT} [/INST]",
        " ",
        "</s>",
        most_tiles=5,
    ),
    Family(
        "llava-interleave",
        llava_interleave,
        f"<|im_start|>user <image>\n{PROMPT}<|im_end|><|im_start|>assistant\n",
        "",
        "<|im_end|>",
    ),
    Family(
        "internvl-internlm2",
        internvl_internlm2,
        f"<s><|im_start|>user\n<IMG_CONTEXT>\n{PROMPT}{_ASSISTANT}",
        "",
        "<|im_end|>",
        most_tiles=13,
    ),
    Family(
        "internvl-qwen2",
        internvl_qwen2,
        f"<|im_start|>user\n<IMG_CONTEXT>\n{PROMPT}{_ASSISTANT}",
        "",
        "<|im_end|>",
        most_tiles=13,
    ),
    Family(
        "qwen2.5-vl",
        qwen2_5_vl,
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{_VISION}{PROMPT}{_ASSISTANT}",
        "",
        "<|im_end|>",
    ),
    Family("qwen3-vl", qwen3_vl, f"<|im_start|>user\n{_VISION}{PROMPT}{_ASSISTANT}", "", "<|im_end|>"),
    Family(
        "fast-vlm",
        fast_vlm,
        "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
        f"<|im_start|>user\n<image>\n{PROMPT}{_ASSISTANT}",
        "",
        "<|im_end|>",
    ),
]


def save(family: Family, folder: Path) -> Path:
    """A checkpoint folder that names the family's public classes, with the video part a real one has."""
    model, processor = family.make()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    public = {
        "InternVLImageProcessor": "InternVLProcessor",
        "Qwen25VLImageProcessor": "Qwen2_5_VLProcessor",
        "Qwen3VLImageProcessor": "Qwen3VLProcessor",
    }
    name = config["processor_class"]
    if name in public:
        videos = {"InternVLProcessor": "InternVLVideoProcessor", "Qwen3VLProcessor": "Qwen3VLVideoProcessor"}
        kind = videos.get(public[name], "Qwen2VLVideoProcessor")
        path.write_text(json.dumps(config | {"video_processor": {"video_processor_type": kind}}))
        for file in folder.glob("*.json"):
            file.write_text(file.read_text().replace(name, public[name]))
    return folder
