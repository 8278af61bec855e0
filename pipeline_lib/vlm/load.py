"""Load a base VLM with its processor and adapter by the public `from_pretrained` calls, and check them."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    ProcessorMixin,
)
from transformers.utils import logging as transformers_logging

from pipeline_lib.errors import ModelError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.adapter import fetch_adapter
from pipeline_lib.vlm.families import family_of, limit_tiles
from pipeline_lib.vlm.model_ref import ModelRef

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
transformers_logging.disable_progress_bar()


class Vlm(NamedTuple):
    """A vision-language model on its device, with the processor that belongs to it."""

    model: Any
    processor: Any
    device: torch.device


def load_config(ref: ModelRef) -> Any:
    """The model's configuration; raises `ModelError` for an unknown architecture, or one that needs code of its own."""
    folder = ref.folder(weights=False)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if _needs_own_code(folder):
            raise ModelError(
                f"model {ref.name} is loaded by Python code among its files, which WhyScore never runs; use a"
                " checkpoint in the format of transformers (of InternVL: one whose name ends in -hf)"
            ) from error
        raise ModelError(f"model {ref.name}: not a vision-language model that transformers knows: {error}") from error


def load_processor(ref: ModelRef) -> Any:
    """The model's processor; raises `ModelError` when it is missing or cannot render a conversation with an image.

    Images are always processed with Pillow: torchvision gives slightly different pixels, and a model's answers must not
    depend on whether it is installed.
    """
    config, folder = load_config(ref), ref.folder(weights=False)
    load = family_of(config.model_type).processor or AutoProcessor
    try:
        processor = load.from_pretrained(folder, trust_remote_code=False)
        if hasattr(processor, "image_processor"):
            processor.image_processor = AutoImageProcessor.from_pretrained(
                folder, backend="pil", trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelError(f"model {ref.name}: its processor cannot be loaded: {error}") from error
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "image_processor"):
        raise ModelError(
            f"model {ref.name}: found a {type(processor).__name__} instead of a processor for images and text; copy"
            " processor_config.json / preprocessor_config.json from the model's source beside its weights"
        )
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"model {ref.name}: its processor has no chat template; is it an instruction-tuned model?")
    if complete := family_of(config.model_type).complete:
        complete(processor, config)
    limit_tiles(config.model_type, processor.image_processor, ref.max_tiles)
    return processor


def load_base(ref: ModelRef, device: torch.device, store: ArtifactStore | None = None) -> Vlm:
    """The base without its adapter, in evaluation mode.

    Adapters of earlier runs that are part of the base (`ref.folded`) are taken from `store` and folded into its weights
    in float32, which are rounded to the model's type afterwards. Raises `ModelError` when files are missing, damaged,
    or hold too few weights, `StoreError` when an adapter is missing or damaged.
    """
    processor = load_processor(ref)
    try:
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            ref.folder(),
            dtype=torch.float32 if ref.folded else getattr(torch, ref.dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(f"model {ref.name} cannot be loaded: {error}") from error
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(f"model {ref.name}: {len(missing)} weight(s) are not in its files, e.g. {missing[0]}")
    if hasattr(model.config, "image_grid_pinpoints"):  # LLaVA-NeXT counts the tiles of an image a second time
        model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints
    own = model.generation_config  # only its special tokens are used, not its settings for generation
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    for adapter in ref.folded:
        with tempfile.TemporaryDirectory(prefix="whyscore-adapter-") as folder:
            assert store is not None
            fetch_adapter(store, adapter, Path(folder))
            model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return Vlm(model.to(device, getattr(torch, ref.dtype)).eval(), processor, device)


def load_vlm(ref: ModelRef, store: ArtifactStore, device: torch.device) -> Vlm:
    """The base under its adapter, for inference (`put_adapter`)."""
    vlm = load_base(ref, device, store)
    if ref.adapter is None:
        return vlm
    with tempfile.TemporaryDirectory(prefix="whyscore-adapter-") as folder:
        fetch_adapter(store, ref.adapter, Path(folder))
        return put_adapter(vlm, Path(folder), ref.dtype)


def put_adapter(base: Vlm, folder: Path, dtype: str) -> Vlm:
    """The base under the adapter of a folder that was checked (`check_adapter`).

    In float32 the adapter is folded into the weights, which changes log-probabilities by rounding alone and halves the
    time of a small model; in 16 bit it stays apart, because folding would lose its small updates.
    """
    model = PeftModel.from_pretrained(base.model, str(folder))
    if dtype == "float32":
        model = model.merge_and_unload()
    return base._replace(model=model.eval())


def _needs_own_code(folder: Path) -> bool:
    try:
        return "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
