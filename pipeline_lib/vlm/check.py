"""Find out whether a model can be driven at all, before any photograph is read; no weights are loaded."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from pipeline_lib.errors import ModelError
from pipeline_lib.train.lora import language_linears
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_processor
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.prompt import Prompt
from pipeline_lib.vlm.score_tokens import resolve_score_tokens


def check_model(ref: ModelRef, prompt: Prompt) -> dict[str, Any]:
    """Facts about a model: class, rendered prompt, ids of the ten score tokens, linear layers that LoRA goes on.

    Raises `ModelError` when the processor is missing, the tokenizer cannot write ten single-token scores, the chat
    template is unusable, the architecture is unknown or the weights are not there.
    """
    processor = load_processor(ref)
    chat = render_chat(processor, prompt.text)
    scores = resolve_score_tokens(processor.tokenizer, chat)
    folder = Path(ref.location)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ModelError(f"model {ref.name}: no .safetensors file in {folder}; only safetensors weights are read")
    try:
        config = AutoConfig.from_pretrained(ref.location, revision=ref.revision, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {ref.name}: not a vision-language model that transformers knows: {error}") from error
    return {
        "architecture": type(model).__name__,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "prompt": chat.prompt,
        "answer_separator": chat.separator,
        "answer_end": chat.end,
        "score_token_ids": list(scores.ids),
        "lora_layers": len(language_linears(model)),
    }
