"""Sizes of a model and of its images, counted on the meta device: nothing of a model's weights is in memory."""

import copy
from math import prod
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from peft import get_peft_model
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoModelForImageTextToText

from pipeline_lib.errors import ModelError
from pipeline_lib.train.lora import language_linears, lora_config
from pipeline_lib.vlm.known_models import KNOWN_MODELS, known_config, known_processor
from pipeline_lib.vlm.load import load_config, load_processor
from pipeline_lib.vlm.model_ref import ModelRef

CHARACTERS_A_TOKEN = 4.2
"""Of an English prompt, where the model's tokenizer is not on this machine."""

_COUNTED = "whyscore_counted"


class ImageSize(NamedTuple):
    """An image as the model sees it."""

    tokens: int  # that the language model reads
    views: int  # tiles with the overview; 1 where an image is not cut
    patches: int  # of all views together


class ModelSize(NamedTuple):
    """Numbers of weights, and widths; FLOPs follow from them (`cost`)."""

    parameters: int
    layers: int
    linear: int  # weights of the linear layers of the language model, which each token passes
    head: int
    adapter: int  # weights of an adapter of rank 1
    hidden: int
    queries: int  # width of all heads together
    keys: int  # width of the heads of keys
    widest: int  # width within a layer
    vocabulary: int
    tower: float  # FLOPs of the vision tower and the projector for one image
    tower_widest: int
    image: ImageSize


def size_of(config: Any, processor: Any, image_px: tuple[int, int]) -> ModelSize:
    """Sizes of the model that a configuration describes, for images of so many pixels (width, height)."""
    model, image = _on_meta(config), _image_size(processor, config, image_px)
    modules, text = dict(model.named_modules()), config.get_text_config()
    linears = [modules[name] for name in language_linears(model)]
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    vision = config.vision_config
    return ModelSize(
        parameters=sum(weight.numel() for weight in model.parameters()),
        layers=text.num_hidden_layers,
        linear=sum(layer.weight.numel() for layer in linears),
        head=model.get_output_embeddings().weight.numel(),
        adapter=sum(layer.in_features + layer.out_features for layer in linears),
        hidden=text.hidden_size,
        queries=heads * width,
        keys=(text.num_key_value_heads or heads) * width,
        widest=text.intermediate_size,
        vocabulary=text.vocab_size,
        tower=_tower_flops(model, vision, image),
        tower_widest=2 * getattr(vision, "intermediate_size", 0) + 4 * getattr(vision, "hidden_size", 0),
        image=image,
    )


class Sized(NamedTuple):
    """The sizes of a recipe's base, and what more can be counted of it."""

    size: ModelSize
    config: Any
    tokenizer: Any  # None: its files are not on this machine

    def saved_bytes(self, rank: int, dtype: torch.dtype) -> float:
        """`saved_bytes` of its configuration."""
        return saved_bytes(self.config, rank, dtype)


def size_of_model(base: ModelRef) -> Sized:
    """Sizes of a recipe's base, for images of 4:3 resized as in the run: from its files, else from the known models.

    Raises `ModelError` for a model whose files are not on this machine and whose configuration is not known.
    """
    px = (base.resize_px, base.resize_px * 3 // 4)
    known = KNOWN_MODELS.get(base.name)
    if known is None or is_here(base):
        try:
            config, processor = load_config(base), load_processor(base)
            return Sized(size_of(config, processor, px), config, processor.tokenizer)
        except ModelError as error:
            if known is None:
                raise ModelError(
                    f"no estimate: the files of {base.name} cannot be read on this machine, and it is none of the"
                    f" models whose sizes are known ({', '.join(KNOWN_MODELS)})"
                ) from error
    config = known_config(known)
    return Sized(size_of(config, known_processor(known, base.max_tiles), px), config, None)


def is_here(base: ModelRef) -> bool:
    """Whether a model's small files are on this machine; the hub is not asked."""
    if base.revision is None:
        return True
    return isinstance(try_to_load_from_cache(base.location, "config.json", revision=base.revision), str)


def saved_bytes(config: Any, rank: int, dtype: torch.dtype) -> float:
    """Bytes that a layer of the language model with LoRA keeps of each token for its backward pass.

    Counted by a forward pass on the meta device, of one layer and of two. Attention keeps its inputs and its output,
    as its fused kernels do.
    """
    tokens = 64
    one, two = (_saved(config, layers, rank, dtype, tokens) for layers in (1, 2))
    return (two - one) / tokens


def _on_meta(config: Any, dtype: torch.dtype | None = None) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, **({"dtype": dtype} if dtype else {}))


def _image_size(processor: Any, config: Any, image_px: tuple[int, int]) -> ImageSize:
    token = processor.image_token
    inputs = processor(
        images=[[Image.new("RGB", image_px)]], text=[token], add_special_tokens=False, return_tensors="pt"
    )
    pixels, found = inputs["pixel_values"], int((inputs["input_ids"] == processor.image_token_id).sum())
    if pixels.ndim == 2:  # a row a patch
        return ImageSize(found, 1, pixels.shape[0])
    views, patch = prod(pixels.shape[:-3]), getattr(config.vision_config, "patch_size", None)
    side = patch if isinstance(patch, int) else patch[0] if patch else pixels.shape[-1]
    return ImageSize(found, views, views * (pixels.shape[-2] // side) * (pixels.shape[-1] // side))


def _tower_flops(model: Any, vision: Any, image: ImageSize) -> float:
    inner = model.model
    if any(isinstance(module, nn.BatchNorm2d) for module in inner.modules()):
        return _convolution_flops(inner, vision.image_size) + _linear(inner.multi_modal_projector) * image.tokens * 2
    tower = next(getattr(inner, name) for name in ("vision_tower", "visual") if hasattr(inner, name))
    of_tokens = [module for name, module in tower.named_children() if "merger" in name]
    merged = sum(_linear(module) for module in of_tokens)
    cut = _linear(tower, nn.Conv2d, nn.Conv3d)  # into patches; a token of the class is none
    own = _linear(tower) - merged - cut
    views = image.views
    if of_tokens:  # no token of the class; an image is one sequence
        rows, outputs = image.patches, image.tokens
    else:
        rows = image.patches + views * hasattr(getattr(tower, "embeddings", tower), _class_token(tower))
        outputs = image.patches // _shrinks(model.config)
    each = rows / views
    depth, width = vision.num_hidden_layers, vision.hidden_size
    whole = len(getattr(vision, "fullatt_block_indexes", ())) or depth
    window = (getattr(vision, "window_size", 0) // getattr(vision, "patch_size", 1)) ** 2 if whole < depth else 0
    seen = whole * each + (depth - whole) * min(window, each)
    projector = _linear(inner.multi_modal_projector) if hasattr(inner, "multi_modal_projector") else 0
    return float(2 * (cut * image.patches + own * rows + (merged + projector) * outputs) + 4 * width * seen * rows)


def _class_token(tower: Any) -> str:
    embeddings = getattr(tower, "embeddings", tower)
    return next((name for name in ("class_embedding", "cls_token") if hasattr(embeddings, name)), "class_embedding")


def _shrinks(config: Any) -> int:
    return round(1 / config.downsample_ratio**2) if hasattr(config, "downsample_ratio") else 1


def _linear(module: Any, *kinds: type[nn.Module]) -> int:
    wanted = kinds or (nn.Linear, nn.Conv2d, nn.Conv3d)
    return sum(part.get_parameter("weight").numel() for part in module.modules() if isinstance(part, wanted))


def _convolution_flops(inner: Any, side: Any) -> float:
    height, width = (side, side) if isinstance(side, int) else side
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        inner.vision_tower(torch.empty(1, 3, height, width, device="meta"))
    return float(counter.get_total_flops())


def _saved(config: Any, layers: int, rank: int, dtype: torch.dtype, tokens: int) -> int:
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    model = _on_meta(config, dtype)
    text = model.config.get_text_config()
    with torch.device("meta"):
        decoder = get_peft_model(model, lora_config(model, rank)).get_base_model().get_decoder()
    decoder.config._attn_implementation = text._attn_implementation = _COUNTED
    kept: dict[int, Any] = {}
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that its place is not taken by another
        return tensor

    states = torch.empty(1, tokens, text.hidden_size, device="meta", dtype=dtype, requires_grad=True)
    positions = torch.arange(tokens, device="meta").expand(1, tokens)
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        positions = positions.expand(3, 1, tokens)
    mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder(inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        context.save_for_backward(query, key, value, output)
        return output  # nothing goes backward here, so there is no `backward`


def _attend(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    found: Tensor = _FusedAttention.apply(query, key, value)
    return found.transpose(1, 2), None


AttentionInterface.register(_COUNTED, _attend)
